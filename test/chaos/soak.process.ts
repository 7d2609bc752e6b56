// The long form of the chaos test. An argument is the seed; without one it is drawn, and printed.
import { chaos, summary } from './chaos.ts'

const seed = Number(process.argv[2] ?? Date.now() % 1_000_000)
process.stdout.write(`seed ${seed}\n`)
const report = await chaos({
  agents: 8,
  jobs: 2000,
  sharedNames: 20,
  lease_ms: 2000,
  every_ms: 250,
  chaos_ms: 15 * 60_000,
  settle_ms: 10 * 60_000,
  seed,
})
process.stdout.write(`${summary(report)}\n`)
const problems = report.lost.length + report.doubles.length + report.wrong.length
process.exitCode = problems > 0 || report.fsckExit !== 0 ? 1 : 0
