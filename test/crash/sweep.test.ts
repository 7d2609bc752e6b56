import { describe, expect, test } from 'vitest'
import { scenes } from './scene.ts'
import { changing, summary, sweep } from './sweep.ts'

// Every index of every changing call is the soak's; here each scene is cut off at every third one.
describe.concurrent('crash sweep: killed at its N-th system call, a spool recovers', () => {
  test.for(Object.keys(scenes).map((scene, i) => ({ scene, i })))(
    '$scene',
    { timeout: 300_000 },
    async ({ scene, i }) => {
      const report = await sweep({ scene, calls: changing, effect: 'KILL', stride: 3, offset: i, parallel: 1 })
      console.log(summary(report))
      expect(report.violations).toEqual([])
      expect(report.hit).toBeGreaterThan(0)
    },
  )
})

describe.concurrent('fault sweep: a failing system call loses nothing', () => {
  test.for([
    { scene: 'accept', effect: 'EIO' },
    { scene: 'commit', effect: 'ENOSPC' },
    { scene: 'publish', effect: 'EIO' },
  ] as const)('$scene with $effect', { timeout: 300_000 }, async ({ scene, effect }) => {
    const report = await sweep({ scene, calls: changing, effect, stride: 6, parallel: 1 })
    console.log(summary(report))
    expect(report.violations).toEqual([])
    expect(report.reported).toBeGreaterThan(0)
  })
})
