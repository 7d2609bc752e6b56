import { expect, test } from 'vitest'
import { outlive, summary } from './outlive.ts'

// The long form is part of `npm run soak`.
test('agents killed at random: each command runs once, and how it ended is on record', {
  timeout: 480_000,
}, async () => {
  const report = await outlive({ kills: 30, jobs: 40, long: 4, every_ms: 600, seed: 7 })
  console.log(summary(report))
  expect(report.violations).toEqual([])
  expect(report.kills).toBeGreaterThan(15)
  expect(report.adoptions).toBeGreaterThan(8)
})
