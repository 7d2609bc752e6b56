// What becomes of a failed attempt: every branch of the decision.
import { expect, test } from 'vitest'
import { describeFailure, judge } from '../../src/agent/verdict.ts'
import { type AbortReason, JobError } from '../../src/jobs/types.ts'

const retry = { enabled: true, max_attempts: 3, delay_ms: 300_000, factor: 2 }
const passing = new JobError('The disk is full.', { code: 'no-space', transient: true })
const final = new JobError('The checksum differs.', { code: 'checksum-mismatch', transient: false })
const aborted = (kind: AbortReason['kind']) => ({ kind, message: `because of ${kind}` })

test('a passing failure is retried three times, after 300, 600 and 1200 s', () => {
  const delays = [0, 1, 2].map((failures) => judge(passing, { failures, aborted: undefined, retry }))
  expect(delays.map((v) => v.do === 'retry' && [v.delay_ms, v.retries_left])).toEqual([
    [300_000, 2],
    [600_000, 1],
    [1_200_000, 0],
  ])
  expect(judge(passing, { failures: 3, aborted: undefined, retry }).do).toBe('fail')
  expect(judge(passing, { failures: 0, aborted: undefined, retry: { ...retry, enabled: false } }).do).toBe('fail')
  expect(judge(passing, { failures: 0, aborted: undefined, retry: { ...retry, max_attempts: 0 } }).do).toBe('fail')
})

test('a lasting failure and a defect fail at once', () => {
  expect(judge(final, { failures: 0, aborted: undefined, retry })).toMatchObject({
    do: 'fail',
    error: { code: 'checksum-mismatch', message: 'The checksum differs.' },
  })
  expect(judge(new TypeError('x is undefined'), { failures: 0, aborted: undefined, retry })).toMatchObject({
    do: 'fail',
    error: { code: 'internal-error' },
  })
})

test.each([
  ['ENOSPC', true],
  ['ESTALE', true],
  ['EIO', true],
  ['EMFILE', true],
  ['EACCES', false],
  ['ENOENT', false],
])('%s passes: %s', (code, transient) => {
  expect(describeFailure(Object.assign(new Error(`${code}: x`), { code })).transient).toBe(transient)
})

test('why it was stopped decides, whatever the handler threw', () => {
  const by = (kind: AbortReason['kind'], failures = 0) => judge(final, { failures, aborted: aborted(kind), retry })
  expect(by('cancel')).toMatchObject({ do: 'cancel', error: { code: 'cancelled', message: 'because of cancel' } })
  expect(by('drain').do).toBe('give-back')
  expect(by('fenced').do).toBe('abandon')
  expect(by('timeout')).toMatchObject({ do: 'fail', error: { code: 'timed-out', transient: false } })
  expect(by('stalled').do).toBe('retry')
  expect(by('stalled', 3).do).toBe('fail')
})

test('waits never grow beyond what a due date can hold', () => {
  const v = judge(passing, { failures: 900, aborted: undefined, retry: { ...retry, max_attempts: 1000, factor: 100 } })
  expect(v).toMatchObject({ do: 'retry', delay_ms: 30 * 24 * 3600 * 1000 })
})
