// `npm test`: installs what is missing, then runs every check and every test with the project's own Node.
// The last line is `N passed, N failed[, N skipped]`; exit code 0 only when nothing failed.
// `npm test -- FILTER…` runs only the test files whose path contains a filter, without the static checks.
import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { home, node, prepare } from './support/prepare.mjs'

const started = Date.now()
const say = (line) => process.stdout.write(`${line}\n`)
const totals = { passed: 0, failed: 0, skipped: 0 }
const filters = process.argv.slice(2)

function finish() {
  const skipped = totals.skipped > 0 ? `, ${totals.skipped} skipped` : ''
  say(`\n${Math.round((Date.now() - started) / 1000)} s`)
  say(`${totals.passed} passed, ${totals.failed} failed${skipped}`)
  process.exitCode = totals.failed > 0 ? 1 : 0
}

/** Runs argv under the project's Node; `show` passes its output through, else it is kept and returned. */
function run(argv, { show = false } = {}) {
  return new Promise((resolve) => {
    const path = `${join(home, 'node_modules/.bin')}:${process.env.PATH}:/usr/sbin:/sbin`
    const child = spawn(node, argv, {
      cwd: home,
      stdio: ['ignore', show ? 1 : 'pipe', show ? 1 : 'pipe'],
      env: { ...process.env, PATH: path, NO_COLOR: '1', FORCE_COLOR: undefined },
    })
    let output = ''
    child.stdout?.on('data', (d) => (output += d))
    child.stderr?.on('data', (d) => (output += d))
    for (const s of ['SIGINT', 'SIGTERM']) process.once(s, () => child.kill(s))
    child.on('error', (error) => resolve({ ok: false, output: String(error) }))
    child.on('close', (code, signal) => resolve({ ok: code === 0, code, signal, output }))
  })
}

async function check(title, argv) {
  const at = Date.now()
  const r = await run(argv)
  totals[r.ok ? 'passed' : 'failed']++
  say(`${r.ok ? '✓' : '✗'} ${title} (${((Date.now() - at) / 1000).toFixed(1)} s)`)
  if (!r.ok) say(r.output.trimEnd())
}

async function vitest() {
  const dir = mkdtempSync(join(tmpdir(), 'vmspool-report-'))
  const file = join(dir, 'vitest.json')
  try {
    const r = await run(
      [
        'node_modules/vitest/vitest.mjs',
        'run',
        '--reporter=default',
        '--reporter=json',
        `--outputFile.json=${file}`,
        ...filters,
      ],
      { show: true },
    )
    let report
    try {
      report = JSON.parse(readFileSync(file, 'utf8'))
    } catch {
      say('✗ vitest wrote no report: it ended before the tests did.')
      totals.failed++
      return
    }
    totals.passed += report.numPassedTests
    totals.failed += report.numFailedTests
    totals.skipped += report.numPendingTests + (report.numTodoTests ?? 0)
    // A test file that cannot be loaded has no tests of its own to count as failed.
    totals.failed += report.testResults.filter(
      (f) => f.status === 'failed' && !f.assertionResults.some((t) => t.status === 'failed'),
    ).length
    if (report.numTotalTests === 0) {
      say('✗ No test ran.')
      totals.failed++
    } else if (!r.ok && totals.failed === 0) {
      say('✗ vitest failed although every test passed: see the leak or the unhandled error above.')
      totals.failed++
    }
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

try {
  prepare()
} catch (error) {
  say(`✗ ${error.message}`)
  totals.failed++
  finish()
  process.exit()
}
if (filters.length === 0) {
  await check('types: tsc', ['node_modules/typescript/bin/tsc', '-p', '.'])
  await check('format and lint: biome', [
    'node_modules/@biomejs/biome/bin/biome',
    'check',
    '--error-on-warnings',
    '--max-diagnostics=40',
  ])
  await check('dead code: knip', ['node_modules/knip/bin/knip.js', '--no-progress'])
  await check('schemas/ is up to date', ['scripts/schemas.ts', '--check'])
}
await vitest()
finish()
