/**
 * Jobs that repeat. Each run is a job of its own; the next one is made when a run has ended, before that is committed, so there is always
 * exactly one of a series that waits or runs: to cancel it is to end the series. Which job follows a run is fixed once (spool/successor.ts),
 * and an attempt that comes later looks whether it was made.
 */
import type { ParseOutcome } from '../manifest/index.ts'
import {
  cancelRequests,
  type Claim,
  existingJobs,
  fixSuccessor,
  type JobRecord,
  readSuccessor,
  requestCancel,
} from '../spool/index.ts'
import { nextOccurrence } from '../text/cron.ts'
import type { Agent } from './state.ts'
import { iso } from './status-fields.ts'

type Repeat = NonNullable<JobRecord['manifest']['repeat']>

/** The run that follows another one, for its result. */
export interface NextRun {
  job: string
  at: string
}

/**
 * When a job runs that is taken now: like cron at the first time that its expression names, and not before `not_before`.
 * A drop whose repetition is over before it begins is refused.
 */
export function firstRun(outcome: ParseOutcome, now: number): ParseOutcome {
  if (outcome.state !== 'complete' || outcome.manifest.repeat === undefined) return outcome
  const { manifest } = outcome
  const repeat = { ...manifest.repeat!, run: 1 }
  // A moment earlier, so that the time of not_before itself is one that counts.
  const from = Math.max(now, (manifest.not_before_ms ?? 0) - 1)
  const due = dueAfter(repeat, from)
  if (due === undefined) {
    const message = `repeat names no time between ${iso(from)} and repeat.until${repeat.until === undefined ? '' : ` (${repeat.until})`}, so the job would never run.`
    const path = repeat.until === undefined ? 'repeat.cron' : 'repeat.until'
    const diagnostics = [...outcome.diagnostics, { severity: 'error' as const, path, message }]
    return { state: 'invalid', diagnostics, partial: partialOf(manifest) }
  }
  return { ...outcome, manifest: { ...manifest, repeat, not_before: iso(due), not_before_ms: due } }
}

function partialOf(m: JobRecord['manifest']): { answer?: string; kind: string } {
  return m.name === undefined ? { kind: m.kind } : { kind: m.kind, answer: m.name }
}

function dueAfter(repeat: Repeat, ms: number): number | undefined {
  const due = nextOccurrence(repeat.cron, repeat.timezone, ms)
  return due !== undefined && (repeat.until === undefined || due <= Date.parse(repeat.until)) ? due : undefined
}

/**
 * When the run after one is due that began at `startedMs` and has ended: at the next time that the expression names. Of those that passed
 * while it ran one is made up for, at once.
 */
export function dueOfNext(repeat: Repeat, startedMs: number, now: number): number | undefined {
  if (repeat.runs !== undefined && (repeat.run ?? 1) >= repeat.runs) return undefined
  const due = dueAfter(repeat, startedMs)
  if (due === undefined || due > now) return due
  return repeat.until === undefined || now <= Date.parse(repeat.until) ? now : undefined
}

/**
 * Makes the run that follows this one, unless it was made or the series has ended. MUST come before the run's commit, and may be repeated.
 * @returns undefined when there is none
 */
export async function makeNextRun(
  a: Agent,
  claim: Claim,
  o: { startedMs: number; signal: AbortSignal },
): Promise<NextRun | undefined> {
  const { record, name } = claim
  const { repeat } = record.manifest
  if (repeat === undefined || record.rejected || record.parent) return undefined
  let next = await readSuccessor(a.spool, name.id)
  let made = false
  if (next) made = (await existingJobs(a.spool, [next.id])).has(next.id)
  else {
    // Somebody wants it to stop and the run was faster: it is the series that was meant.
    if ((await cancelRequests(a.spool)).some((r) => r.id === name.id)) return undefined
    const now = a.spool.clock.now()
    const due = dueOfNext(repeat, o.startedMs, now)
    if (due === undefined) return undefined
    const fixed = await fixSuccessor(a.spool, name.id, due)
    next = fixed
    made = !fixed.mine && (await existingJobs(a.spool, [fixed.id])).has(fixed.id)
  }
  const told = { job: next.id, at: iso(next.due_ms) }
  if (made) return told
  await a.batches.make(successorOf(record, repeat, next, a.spool.clock.now()), o.signal)
  return told
}

function successorOf(record: JobRecord, repeat: Repeat, next: { id: string; due_ms: number }, now: number): JobRecord {
  const {
    after: _after,
    retry_of: _retry,
    retry_from: _from,
    ...manifest
  } = record.manifest as JobRecord['manifest'] & {
    retry_of?: string
  }
  const { retry_of: _of, ...kept } = record
  return {
    ...kept,
    id: next.id,
    manifest: {
      ...manifest,
      repeat: { ...repeat, run: (repeat.run ?? 1) + 1 },
      not_before: iso(next.due_ms),
      not_before_ms: next.due_ms,
    } as JobRecord['manifest'],
    drop: { ...record.drop, at: iso(now) },
    follows: record.id,
  }
}

/** A run was cancelled: when an earlier attempt had made the next one already, that goes too. */
export async function endSeries(a: Agent, claim: Claim): Promise<void> {
  if (claim.record.manifest.repeat === undefined) return
  const next = await readSuccessor(a.spool, claim.name.id)
  if (next) await requestCancel(a.spool, next.id, `the cancellation of the run before it (job ${claim.name.id})`)
}

/** For a run that no handler ends: one whose agents kept dying, or that came after a job which failed. */
export function nextOfUnrun(a: Agent): (c: Claim) => Promise<unknown> {
  return (c) => makeNextRun(a, c, { startedMs: a.spool.clock.now(), signal: new AbortController().signal })
}
