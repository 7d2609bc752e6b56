/** How an attempt ends: its job is committed, put off, given back, or left to the agent that has it by now. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { AbortReason } from '../jobs/types.ts'
import { type Claim, commit, errno, giveBack, type JobStatus, type Outcome, retry } from '../spool/index.ts'
import type { JobLog } from './job-log.ts'
import type { StatusWriter } from './job-status.ts'
import { keeping } from './kept.ts'
import { endSeries, makeNextRun } from './repeat.ts'
import type { Agent } from './state.ts'
import { claimStatus, iso } from './status-fields.ts'
import { type Failure, judge } from './verdict.ts'

export interface Finished {
  started_at: string
  duration_ms: number
  attempt: number
  error?: string
}

export interface RunnerDeps {
  status: StatusWriter
  /** what the publisher reports of jobs that ended here */
  finished: Map<string, Finished>
  /** from the scheduler: the job only waits for something that is away, or goes on */
  waits?(id: string, waiting: boolean): void
}

/** After a handler that failed: what becomes of the job follows from its error, or from why it was aborted. */
export async function settle(
  a: Agent,
  deps: RunnerDeps,
  claim: Claim,
  log: JobLog,
  error: unknown,
  aborted: AbortReason | undefined,
  finish: (o: Outcome, extra: Record<string, unknown>, status: Partial<JobStatus>, error?: Failure) => Promise<void>,
): Promise<void> {
  const { name, record } = claim
  const own = record.manifest.retry
  const policy = {
    enabled: a.config.retry.enabled,
    max_attempts: own?.max_attempts ?? a.config.retry.max_attempts,
    delay_ms: own?.delay_ms ?? a.config.retry.delay,
    factor: own?.factor ?? a.config.retry.factor,
  }
  const verdict = judge(error, { failures: name.failures, aborted, retry: policy })
  const f = verdict.error
  if (f.code === 'internal-error') {
    log.write('agent', error instanceof Error ? (error.stack ?? error.message) : String(error))
    a.log.error('job.defect', { job: name.id, error })
  }
  const codes = {
    ...(f.exit_code === undefined ? {} : { exit_code: f.exit_code }),
    ...(f.signal === undefined ? {} : { signal: f.signal }),
  }
  switch (verdict.do) {
    case 'fail':
      return finish('failed', { ...f.detail, ...codes }, { reason: f.message, ...codes }, f)
    case 'cancel':
      return finish('cancelled', { ...f.detail, ...codes }, { reason: f.message, ...codes }, f)
    case 'abandon':
      return abandon(a, claim, log)
    case 'give-back': {
      log.write('agent', `given back: ${f.message}`)
      await log.close()
      // Before the move: once it is back, another agent's word on it comes after ours.
      await deps.status.last({
        ...claimStatus(claim),
        state: 'queued',
        since: iso(),
        reason: f.message,
        waiting_on: 'an agent',
      })
      if ((await leaving(a, () => giveBack(a.spool, claim))) === 'fenced') return abandon(a, claim, log)
      a.metrics.inc('vmspool_jobs_given_back_total', { kind: record.kind })
      a.events.add({ event: 'given-back', job: name.id, name: record.answer, epoch: name.epoch })
      a.log.info('job.given-back', { job: name.id, name: record.answer, reason: f.message })
      return undefined
    }
    case 'retry': {
      const due = Date.now() + verdict.delay_ms
      log.write('agent', `failed: ${f.message} Next attempt at ${iso(due)}, ${verdict.retries_left} more after it.`)
      await log.close()
      await deps.status.last({
        ...claimStatus(claim),
        ...codes,
        state: 'retrying',
        since: iso(),
        reason: f.message,
        waiting_on: `its next attempt, due at ${iso(due)}`,
      })
      if ((await leaving(a, () => retry(a.spool, claim, due))) === 'fenced') return abandon(a, claim, log)
      a.metrics.inc('vmspool_jobs_retried_total', { kind: record.kind })
      a.events.add({
        event: 'retrying',
        job: name.id,
        name: record.answer,
        epoch: name.epoch,
        error: f.message.slice(0, 500),
        due: iso(due),
      })
      a.log.warn('job.retrying', { job: name.id, name: record.answer, code: f.code, reason: f.message, due: iso(due) })
      return undefined
    }
  }
}

/** The job is over. */
export async function end(
  a: Agent,
  deps: RunnerDeps,
  claim: Claim,
  log: JobLog,
  o: {
    outcome: Outcome
    extra: Record<string, unknown>
    status: Partial<JobStatus>
    error: Failure | undefined
    started_at: string
    duration_ms: number
    signal: AbortSignal
  },
): Promise<void> {
  const { name, record } = claim
  const goesOn = o.outcome === 'done' || o.outcome === 'failed'
  const startedMs = Date.parse(o.started_at)
  const next = goesOn ? await leaving(a, () => makeNextRun(a, claim, { startedMs, signal: o.signal })) : undefined
  if (!goesOn) await leaving(a, () => endSeries(a, claim))
  if (next) log.write('agent', `the next run is job ${next.job}, due at ${next.at}`)
  const finished_at = iso()
  const state = o.outcome === 'done' ? 'succeeded' : o.outcome
  const base = claimStatus(claim)
  const kept = o.outcome === 'failed' ? keeping(a, claim, o.error) : undefined
  const hint = [o.error?.hint, kept?.sentence].filter((x) => x !== undefined).join('\n') || undefined
  const text = o.error && (hint === undefined ? o.error.message : `${o.error.message}\n${hint}`)
  log.write('agent', `${state} after ${o.duration_ms} ms${text === undefined ? '' : `: ${text}`}`)
  await log.close()
  const said = { started_at: o.started_at, finished_at }
  const status = { ...base, ...said, ...o.status, state, since: finished_at, owner: a.spool.owner?.id }
  const result = {
    ...base,
    ...o.extra,
    state,
    ...said,
    duration_ms: o.duration_ms,
    owner: a.spool.owner?.id,
    ...(record.diagnostics.length > 0 ? { diagnostics: record.diagnostics } : {}),
    ...kept?.result,
    ...(next ? { next_run: next } : {}),
    ...(o.error
      ? {
          error: {
            code: o.error.code,
            message: o.error.message,
            hint,
            phase: o.error.phase,
            transient: o.error.transient,
          },
        }
      : {}),
  }
  const info: Finished = { started_at: o.started_at, duration_ms: o.duration_ms, attempt: base.attempt }
  if (o.error) info.error = o.error.message
  deps.finished.set(name.id, info)
  const how = await leaving(a, () =>
    commit(a.spool, claim, o.outcome, {
      result,
      status,
      ...(text === undefined ? {} : { error: text }),
      ...(kept ? { keep: kept.keep } : {}),
    }),
  )
  if (how === 'fenced') {
    deps.finished.delete(name.id)
    return abandon(a, claim, log)
  }
  a.publish()
  a.metrics.inc('vmspool_jobs_finished_total', { kind: record.kind, outcome: o.outcome })
  a.metrics.observe('vmspool_job_duration_seconds', o.duration_ms / 1000, { kind: record.kind, outcome: o.outcome })
  const fields = { job: name.id, name: record.answer, kind: record.kind, duration_ms: o.duration_ms }
  if (o.outcome === 'done') a.log.info('job.done', fields)
  else a.log.warn(`job.${o.outcome}`, { ...fields, code: o.error?.code, reason: o.error?.message })
}

/**
 * The last move of an attempt. The work is done, so an I/O error here is waited out: with a full disk or a server that is
 * away the job stays ours until it can be said how it ended. When the agent has to go, the claim is left to the next one.
 */
async function leaving<T>(a: Agent, move: () => Promise<T>): Promise<T> {
  for (let wait = 250; ; wait = Math.min(wait * 2, 15_000)) {
    try {
      return await move()
    } catch (e) {
      if (errno(e) === '' || a.draining) throw e
      a.log.error('job.commit-failed', { error: e, again_ms: wait })
      await sleep(wait)
      if (a.fenced) throw e
    }
  }
}

/** Another agent has the job. Nothing of it is deleted or written any more. */
export async function abandon(a: Agent, claim: Claim, log: JobLog): Promise<void> {
  await log.close()
  a.metrics.inc('vmspool_fenced_total')
  a.log.warn('job.fenced', { job: claim.name.id, name: claim.record.answer, epoch: claim.name.epoch })
}
