// The long form of the tests of logs: a gigabyte under the shim and through an agent's writer, followed at the same time, and writers of
// both kinds killed again and again. Arguments choose parts by name.
import { spawn } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { startShim, waitShim } from '../../src/process/index.ts'
import { logParser } from '../../src/process/log-format.ts'
import { logParts } from '../support/log-files.ts'
import { type Watched, watchFlood } from './log-flood.ts'

const dir = await mkdtemp(join(tmpdir(), 'vs-logs-'))
const MB = 1 << 20
const limits = { max_bytes: 16 * MB, max_age_ms: 0, total_bytes: 64 * MB }
const script = join(import.meta.dirname, 'log-writer.process.ts')
let failed = 0

function must(ok: boolean, what: string): void {
  process.stdout.write(`${ok ? 'ok' : 'WRONG'}: ${what}\n`)
  if (!ok) failed += 1
}
const mb = (n: number): string => `${Math.round(n / MB)} MB`

function judge(what: string, w: Watched, memory: number, seconds: number): void {
  process.stdout.write(
    `${what}: 1 GB in ${seconds.toFixed(1)} s; files at most ${mb(w.disk)}, memory of the writer at most ${mb(w.memory)}; a follower saw ${w.lines} lines, ${w.missed} parts were removed before it came\n`,
  )
  must(w.wrong.length === 0, `${what}: no line is lost or comes twice without a word ${w.wrong.join(', ')}`)
  must(w.disk <= limits.total_bytes + 2 * limits.max_bytes, `${what}: the files are bounded`)
  must(w.memory > 0 && w.memory < memory, `${what}: the memory is bounded`)
}

async function floodUnderShim(): Promise<void> {
  const at = join(dir, 'shim')
  const begun = performance.now()
  const started = await startShim({
    dir: at,
    // lines of 100 bytes
    argv: [
      '/usr/bin/perl',
      '-e',
      'my $x = "x" x 80; for (my $i = 0; $i < 10_485_760; $i++) { printf "line %08d %s\\n", $i, $x }',
    ],
    cwd: dir,
    env: {},
    log: { path: join(at, 'log'), ...limits },
    kill_grace_ms: 1000,
  })
  if (!('process' in started)) throw new Error('The shim did not start.')
  let over = false
  const watching = watchFlood(
    join(at, 'log'),
    () => started.process.shim.pid,
    () => over,
  )
  await waitShim(at, {})
  const seconds = (performance.now() - begun) / 1000
  over = true
  judge('shim', await watching, 16 * MB, seconds)
}

async function floodThroughWriter(): Promise<void> {
  const path = join(dir, 'writer', 'log')
  const begun = performance.now()
  const child = spawn(process.execPath, [script, path, '0', '10485760', JSON.stringify(limits), '80'], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  let over = false
  const ended = new Promise<number | null>((resolve) => child.on('close', resolve))
  const watching = watchFlood(
    path,
    () => child.pid,
    () => over,
  )
  must((await ended) === 0, 'writer: ended well')
  const seconds = (performance.now() - begun) / 1000
  over = true
  judge('writer', await watching, 300 * MB, seconds)
}

/** Kills a writer at any moment, many times, the next one going on; nothing that a line of was seen before may be missing. */
async function killWriters(rounds = 40): Promise<void> {
  const path = join(dir, 'killed', 'log')
  const small = { max_bytes: 50_000, max_age_ms: 0, total_bytes: 1 << 30 }
  let from = 0
  for (let round = 0; round < rounds; round++) {
    const child = spawn(process.execPath, [script, path, String(from), '100000000', JSON.stringify(small), '80'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let said = ''
    const ended = new Promise<void>((resolve) => child.on('close', () => resolve()))
    child.stdout.on('data', (d) => {
      said += d
    })
    while (!said.includes('\n')) await sleep(5)
    await sleep(Math.random() * 150)
    child.kill('SIGKILL')
    await ended
    const numbers = await linesOf(path)
    const done = Number(said.trim().split('\n').at(-1))
    if (!(numbers.at(-1)! >= done))
      must(false, `killed: line ${done} was written for sure, and ${numbers.at(-1)} is the last`)
    from = numbers.at(-1)! + 1
  }
  const end = spawn(process.execPath, [script, path, String(from), String(from + 1000), JSON.stringify(small), '80'], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  await new Promise((resolve) => end.on('close', resolve))
  const numbers = await linesOf(path)
  must(
    numbers.every((n, i) => n === i) && numbers.length === from + 1000,
    `killed ${rounds} times: all ${from + 1000} lines are there, once and in order`,
  )
  const left = (await readdir(join(dir, 'killed'))).filter((n) => !/^log(\.\d+\.gz)?$/.test(n))
  const strange: string[] = []
  for (const n of left) {
    const empty = (await stat(join(dir, 'killed', n))).size === 0 && /^log\.\d+$/.test(n)
    if (!empty) strange.push(n)
  }
  must(strange.length === 0, `killed: nothing else is left behind ${strange.join(' ')}`)
}

/** The numbers of the lines that are whole; one may stand behind a line whose writer was killed before its newline. */
async function linesOf(path: string): Promise<number[]> {
  const bytes = Buffer.concat((await logParts(path)).map((p) => p.bytes))
  const pieces = logParser().push(bytes)
  const text = Buffer.concat(pieces.flatMap((p) => [p.bytes, Buffer.from(p.newline ? '\n' : '')])).toString('latin1')
  return [...text.matchAll(/line (\d+) x{80}(?=$|line)/gm)].map((m) => Number(m[1]))
}

/** The shim killed in a flood: what it wrote is readable to its last line, and the next writer ends what it began. */
async function killShims(rounds = 20): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    const at = join(dir, `shim-${round}`)
    const path = join(at, 'log')
    const started = await startShim({
      dir: at,
      argv: ['/usr/bin/perl', '-e', 'my $x = "x" x 80; for (my $i = 0; ; $i++) { print "line $i $x\\n" }'],
      cwd: dir,
      env: {},
      log: { path, max_bytes: 100_000, max_age_ms: 0, total_bytes: 1 << 30 },
      kill_grace_ms: 1000,
    })
    if (!('process' in started)) throw new Error('The shim did not start.')
    await sleep(100 + Math.random() * 200)
    process.kill(started.process.shim.pid, 'SIGKILL')
    process.kill(-started.process.pid, 'SIGKILL')
    await sleep(50)
    const before = (await linesOf(path)).length
    const next = spawn(
      process.execPath,
      [
        script,
        path,
        String(before),
        String(before + 500),
        JSON.stringify({ max_bytes: 100_000, max_age_ms: 0, total_bytes: 1 << 30 }),
        '80',
      ],
      { stdio: ['ignore', 'ignore', 'inherit'] },
    )
    await new Promise((resolve) => next.on('close', resolve))
    const numbers = await linesOf(path)
    if (!numbers.every((n, i) => n === i) || numbers.length !== before + 500)
      must(
        false,
        `shim ${round}: ${numbers.length} lines, ${before} before; first wrong ${numbers.findIndex((n, i) => n !== i)}`,
      )
    const plain = (await readdir(at)).filter((n) => /^log\.\d+$/.test(n))
    for (const n of plain)
      if ((await readFile(join(at, n))).length > 0) must(false, `shim ${round}: ${n} is not compressed`)
    await rm(at, { recursive: true })
  }
  must(
    true,
    `shims killed ${rounds} times in a flood: their logs are whole up to the last line, and the next writer goes on`,
  )
}

try {
  const parts = { shim: floodUnderShim, writer: floodThroughWriter, killed: killWriters, shims: killShims }
  const chosen = process.argv.slice(2)
  for (const [name, part] of Object.entries(parts)) if (chosen.length === 0 || chosen.includes(name)) await part()
} finally {
  await rm(dir, { recursive: true, force: true })
}
process.exitCode = failed > 0 ? 1 : 0
