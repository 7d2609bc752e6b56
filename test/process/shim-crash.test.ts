// Whoever is killed, and whenever: what is on record is true.
import { describe, expect, test } from 'vitest'
import { vmspool } from '../support/agent.ts'
import { changing, cutShim, cutStarter, startTooLate, summary } from './cut.ts'

// Every call, and more starts, are part of `npm run soak`.
describe.concurrent('the record is true', () => {
  test('when the shim is killed at one of its system calls', { timeout: 600_000 }, async () => {
    for (const o of [{ calls: changing }, { stride: 8 }]) {
      const report = await cutShim({ ...o, parallel: 2, fsync: true })
      console.log(summary('shim', report))
      expect(report.violations).toEqual([])
      expect(report.killed).toBeGreaterThan(report.points * 0.3)
      expect([report.never, report.known, report.unseen].every((n) => n > 0)).toBe(true)
    }
  })

  test('when it is settled that a command never ran: whoever starts it then is too late', async () => {
    const told = await startTooLate()
    expect(told).toMatchObject({ settled: true, ran: false, state: 'failed', failed: { step: 'record', errno: 21 } })
  })

  test('when `vmspool run` is killed on its way, with and without Node', { timeout: 600_000 }, async () => {
    for (const way of ['short', 'node'] as const) {
      const report = await cutStarter(vmspool, 16, 2, way)
      console.log(summary(`vmspool run, ${way} way`, report))
      expect(report.violations).toEqual([])
      expect(report.killed).toBeGreaterThan(0)
      expect(report.known).toBeGreaterThan(0)
    }
  })
})
