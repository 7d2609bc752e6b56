// The long form of the sweep: every scene, every call that the spool makes, killed and failing with every errno.
import { scenes } from './scene.ts'
import { changing, everything, summary, sweep } from './sweep.ts'

let points = 0
let violations = 0
for (const effect of ['KILL', 'EIO', 'ENOSPC', 'ESTALE'] as const) {
  for (const scene of Object.keys(scenes)) {
    const report = await sweep({
      scene,
      effect,
      calls: effect === 'KILL' || effect === 'ESTALE' ? everything : changing,
      parallel: 3,
    })
    process.stdout.write(`${summary(report)}\n`)
    points += report.points
    violations += report.violations.length
  }
}
process.stdout.write(`${points} points tested, ${violations} violations\n`)
process.exitCode = violations > 0 ? 1 : 0
