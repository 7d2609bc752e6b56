/** What becomes of an attempt that did not succeed: a pure decision, so that every branch can be tested. */
import { type AbortReason, JobError, type KeptWork } from '../jobs/types.ts'
import { errno } from '../process/errno.ts'

export type Verdict =
  | { do: 'fail'; error: Failure }
  | { do: 'retry'; error: Failure; delay_ms: number; retries_left: number }
  | { do: 'cancel'; error: Failure }
  | { do: 'give-back'; error: Failure }
  | { do: 'abandon'; error: Failure }

export interface Failure {
  code: string
  message: string
  hint?: string | undefined
  phase?: string | undefined
  transient: boolean
  exit_code?: number | undefined
  signal?: string | undefined
  detail?: Record<string, unknown> | undefined
  kept?: KeptWork | undefined
}

/** errno(3) names behind which the next attempt may find another world. */
const PASSING = new Set([
  'EAGAIN', 'EBUSY', 'ECONNREFUSED', 'ECONNRESET', 'EHOSTUNREACH', 'EIO', 'EMFILE', 'ENETUNREACH', 'ENFILE', 'ENOBUFS', 'ENOMEM', 'ENOSPC',
  'EDQUOT', 'EPIPE', 'ESTALE', 'ETIMEDOUT', 'ETXTBSY', 'EINTR',
]) // biome-ignore format: a table

export function describeFailure(e: unknown): Failure {
  if (e instanceof JobError) {
    return {
      code: e.code,
      message: e.message,
      hint: e.hint,
      phase: e.phase,
      transient: e.transient,
      exit_code: e.exit_code,
      signal: e.signal,
      detail: e.detail,
      kept: e.kept,
    }
  }
  const code = errno(e)
  if (/^E[A-Z0-9]+$/.test(code)) {
    return {
      code: code === 'ENOSPC' || code === 'EDQUOT' ? 'no-space' : 'io-error',
      message: (e as Error).message,
      transient: PASSING.has(code),
      ...(code === 'ENOSPC' ? { hint: 'Make room on the file system of the output folder.' } : {}),
    }
  }
  const message = e instanceof Error ? e.message : String(e)
  return {
    code: 'internal-error',
    message: `The handler failed in a way nobody foresaw: ${message}`,
    transient: false,
    hint: 'This is a defect of vmspool. The log of the job has the details; please report it.',
  }
}

/**
 * @param o.failures attempts of this job that failed before
 * @param o.aborted why the attempt was stopped, if it was
 */
export function judge(
  e: unknown,
  o: {
    failures: number
    aborted: AbortReason | undefined
    retry: { enabled: boolean; max_attempts: number; delay_ms: number; factor: number }
  },
): Verdict {
  const a = o.aborted
  const f = describeFailure(e)
  if (a) {
    const error: Failure = { ...f, code: a.kind === 'timeout' ? 'timed-out' : a.kind, message: a.message }
    switch (a.kind) {
      case 'cancel':
        return { do: 'cancel', error: { ...error, code: 'cancelled', transient: false } }
      case 'drain':
        return { do: 'give-back', error }
      case 'fenced':
        return { do: 'abandon', error }
      case 'timeout':
        // It would take as long again.
        return { do: 'fail', error: { ...error, transient: false } }
      case 'stalled':
        return again({ ...error, transient: true }, o)
    }
  }
  // Somebody ended its program by hand, under the shim's eyes: as good as a cancel.
  if (f.code === 'stopped') return { do: 'cancel', error: f }
  return again(f, o)
}

function again(error: Failure, o: Parameters<typeof judge>[1]): Verdict {
  const left = o.retry.max_attempts - o.failures
  if (!error.transient || !o.retry.enabled || left <= 0) return { do: 'fail', error }
  const delay = o.retry.delay_ms * o.retry.factor ** o.failures
  return { do: 'retry', error, delay_ms: Math.min(delay, MAX_DELAY_MS), retries_left: left - 1 }
}

/** Thirty days: beyond it nobody waits, and dates stay within what a job's name can hold. */
const MAX_DELAY_MS = 30 * 24 * 3600 * 1000
