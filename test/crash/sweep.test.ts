import { afterAll, describe, expect, test } from 'vitest'
import { scenes } from './scene.ts'
import { changing, type SweepReport, summary, sweep } from './sweep.ts'

const reports: SweepReport[] = []
afterAll(() => {
  const points = reports.reduce((n, r) => n + r.points, 0)
  const violations = reports.reduce((n, r) => n + r.violations.length, 0)
  console.log([...reports.map(summary), `${points} points tested, ${violations} violations`].join('\n'))
})

describe.concurrent('crash sweep: killed at its N-th system call, a spool recovers', () => {
  test.for(Object.keys(scenes))('%s', { timeout: 600_000 }, async (scene) => {
    const report = await sweep({ scene, calls: changing, effect: 'KILL', parallel: 1 })
    reports.push(report)
    expect(report.violations).toEqual([])
    expect(report.points).toBe(report.indices)
    expect(report.hit).toBeGreaterThan(report.points / 2)
  })
})

describe.concurrent('fault sweep: a failing system call loses nothing', () => {
  test.for([
    { scene: 'accept', effect: 'EIO' },
    { scene: 'commit', effect: 'ENOSPC' },
    { scene: 'publish', effect: 'EIO' },
  ] as const)('$scene with $effect', { timeout: 600_000 }, async ({ scene, effect }) => {
    const report = await sweep({ scene, calls: changing, effect, stride: 6, parallel: 1 })
    reports.push(report)
    expect(report.violations).toEqual([])
    expect(report.reported).toBeGreaterThan(0)
    // Tidying up may fail without a word to the client; nothing else may.
    expect(report.silent.filter((call) => !/^(rmdir|unlink) /.test(call))).toEqual([])
  })
})
