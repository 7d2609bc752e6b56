// The long forms of the proofs about shims: a gigabyte of output, a kill at every system call, agents killed again and again.
// `node test/process/soak.process.ts [SEED]`
import { outlive, summary as outliveSummary } from '../agent/outlive.ts'
import { vmspool } from '../support/agent.ts'
import { flood } from '../support/flood.ts'
import { cutShim, cutStarter, summary } from './cut.ts'

const seed = Number(process.argv[2] ?? Date.now() % 1_000_000)
process.stdout.write(`seed ${seed}\n`)
let wrong = 0
const say = (text: string, violations: number) => {
  process.stdout.write(`${text}\n`)
  wrong += violations
}

for (const kind of ['lines', 'one line'] as const) {
  const f = await flood(kind, 1e9)
  const ok = f.exit?.exit_code === 0 && f.peakMiB < 48 && f.mostOnDisk < f.bound && f.problem === undefined
  say(
    `1 GB of ${kind}: ${Math.round(f.bytes_per_s / 1e6)} MB/s, the shim had ${f.peakMiB.toFixed(1)} MiB at most, the log ${(f.mostOnDisk / 1e6).toFixed(1)} MB of ${(f.bound / 1e6).toFixed(1)}${ok ? '' : `; wrong: ${JSON.stringify(f)}`}`,
    ok ? 0 : 1,
  )
}
for (const fsync of [true, false]) {
  const report = await cutShim({ parallel: 3, fsync })
  say(summary(`shim ${fsync ? 'with' : 'without'} fsync`, report), report.violations.length)
}
for (const way of ['short', 'node'] as const) {
  const report = await cutStarter(vmspool, 400, 3, way)
  say(summary(`vmspool run, ${way} way`, report), report.violations.length)
}
for (let round = 0; round < 4; round++) {
  const report = await outlive({ kills: 120, jobs: 200, long: 6, every_ms: 1200, seed: seed + round })
  say(outliveSummary(report), report.violations.length)
}
process.exitCode = wrong > 0 ? 1 : 0
