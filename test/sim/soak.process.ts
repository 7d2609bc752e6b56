// The long form of the simulation: seeds that `npm test` does not run, at least a million steps, on both cores.
// An argument is the first seed; without one it is drawn, and printed.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { bundle, simulate } from './bundle.ts'

const from = Number(process.argv[2] ?? 10_000 + (Date.now() % 1_000_000))
const SEEDS = 5_000
const dir = await mkdtemp(join(tmpdir(), 'vmspool-sim-'))
try {
  const script = await bundle(dir, 'soak', [])
  const half = SEEDS / 2
  const reports = await Promise.all([simulate(script, from, half), simulate(script, from + half, half)])
  const steps = reports.reduce((n, r) => n + r.steps, 0)
  const failures = reports.flatMap((r) => r.failures)
  process.stdout.write(`seeds ${from} to ${from + SEEDS - 1}: ${steps} steps, ${failures.length} violations\n`)
  for (const f of failures) process.stdout.write(`  seed ${f.seed} (${f.weather}): ${f.violation}\n`)
  process.exitCode = failures.length > 0 || steps < 1_000_000 ? 1 : 0
} finally {
  await rm(dir, { recursive: true, force: true })
}
