import { expect, test } from 'vitest'
import { chaos, summary } from './chaos.ts'

// The long form (8 agents, 2 000 jobs) is part of `npm run soak`.
test('agents killed and stopped at random lose nothing and commit nothing twice', { timeout: 600_000 }, async () => {
  const report = await chaos({
    agents: 3,
    jobs: 150,
    sharedNames: 5,
    lease_ms: 1500,
    every_ms: 400,
    chaos_ms: 20_000,
    settle_ms: 400_000,
    seed: 1,
  })
  console.log(summary(report))
  expect(report).toMatchObject({ lost: [], doubles: [], wrong: [], ended: 150, fsckExit: 0 })
  expect(report.kills).toBeGreaterThan(0)
  expect(report.stops).toBeGreaterThan(0)
})
