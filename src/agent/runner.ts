/** One claimed job, from its claim to the end of the attempt: run the handler, then commit, put off or give back. */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { AbortReason, JobContext, JobOutcome } from '../jobs/types.ts'
import { handlers } from '../jobs/registry.ts'
import {
  type Claim,
  commit,
  commitRejection,
  endDecided,
  errno,
  giveBack,
  type JobStatus,
  type Outcome,
  retry,
} from '../spool/index.ts'
import { childRecorder, endEarlier, forgetChildren } from './children.ts'
import { openJobLog, type JobLog } from './job-log.ts'
import type { StatusWriter } from './job-status.ts'
import { keeping, keptFor } from './kept.ts'
import { progressMeter } from './progress.ts'
import { endSeries, makeNextRun, nextOfUnrun } from './repeat.ts'
import { resultOf } from './result-of.ts'
import type { Agent, RunningJob } from './state.ts'
import { claimStatus, iso } from './status-fields.ts'
import { type Failure, judge } from './verdict.ts'
import { watchdogs } from './watchdogs.ts'

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

/** What a batch is told when its agent drains: it holds nothing that would be lost. */
export const draining: AbortReason = {
  kind: 'drain',
  message: 'The agent is draining; another one goes on with the batch.',
}

/** How often the status of a running job is written when nothing changes, in ms. */
const REPEAT_MS = 10_000

/** Runs a claim to its end. Never throws: what goes wrong is the job's outcome, or is logged. */
export async function runClaim(a: Agent, deps: RunnerDeps, claim: Claim, weight: number): Promise<void> {
  try {
    if (claim.record.rejected) {
      await commitRejection(a.spool, claim)
      a.publish()
      return
    }
    if (await endDecided(a.spool, claim, nextOfUnrun(a))) {
      a.publish()
      return
    }
    await attempt(a, deps, claim, weight)
  } catch (e) {
    // Nothing was decided: the claim stays ours, and the next heartbeat finds it and takes it up again.
    a.log.error('job.broken', { job: claim.name.id, name: claim.record.answer, error: e })
    await sleep(1000)
  } finally {
    a.running.delete(claim.name.id)
    deps.status.reopen(claim.name.id)
    a.lastMove = performance.now()
  }
}

async function attempt(a: Agent, deps: RunnerDeps, claim: Claim, weight: number): Promise<void> {
  const { name, record } = claim
  const started = performance.now()
  const started_at = iso()
  const controller = new AbortController()
  const job: RunningJob = {
    name,
    claim,
    weight,
    started_at,
    since: started,
    progress: { phase: 'start' },
    ending: false,
    abort(reason: AbortReason) {
      // The first reason stands, except that a fenced attempt must not be committed as anything.
      // And a batch that is being cancelled waits for its children, which an agent that has to go leaves to the next.
      if (job.aborted && reason.kind !== 'fenced' && !(weight === 0 && reason.kind === 'drain')) return
      job.aborted = reason
      controller.abort(reason)
      a.batches.wake(name.id)
    },
  }
  a.running.set(name.id, job)
  if (a.fenced) job.abort({ kind: 'fenced', message: 'The agent lost its lease.' })
  if (a.draining && weight === 0) job.abort(draining)
  a.events.add({
    event: 'started',
    job: name.id,
    name: record.answer,
    epoch: name.epoch,
    attempt: name.failures + name.crashes + 1,
  })
  const log = openJobLog(join(a.spool.layout.outputJobs, name.id, 'log'), a.config.logs, (e) =>
    a.log.warn('job.log-failed', { job: name.id, error: e }),
  )
  const running = {
    ...claimStatus(claim),
    state: 'running' as const,
    since: started_at,
    started_at,
    owner: a.spool.owner?.id ?? '',
  }
  const meter = progressMeter()
  const show = (kind?: 'progress'): void => {
    const p = meter(job.progress)
    const status: JobStatus = {
      ...running,
      phase: job.progress.phase,
      ...(Object.keys(p).length > 0 ? { progress: p } : {}),
      ...(job.progress.children ? { children: job.progress.children } : {}),
      ...job.progress.process,
      ...(job.waiting === undefined ? {} : { waiting_on: job.waiting }),
    }
    if (job.aborted) status.reason = job.aborted.message
    deps.status.set(status, kind)
  }
  show()
  log.write(
    'agent',
    `attempt ${running.attempt} (epoch ${name.epoch}) of job ${name.id}, kind ${record.kind}, on ${running.owner}`,
  )

  const timers = watchdogs(a, job)
  // A stalled agent that had the job before may still write its last status over ours; this one stands again soon.
  const repeat = setInterval(() => show('progress'), REPEAT_MS)
  let outcome: JobOutcome | undefined
  let failure: { error: unknown } | undefined
  try {
    outcome = await handle(a, deps, claim, job, controller.signal, log, show)
  } catch (e) {
    failure = { error: e }
  }
  timers.stop()
  clearInterval(repeat)
  job.ending = true
  const duration_ms = Math.round(performance.now() - started)
  await deps.status.close(name.id)
  await forgetChildren(claim.attemptDir).catch(() => {})
  if (job.aborted?.kind === 'fenced') {
    await abandon(a, claim, log)
    return
  }
  const finish = (
    o: Outcome,
    extra: Record<string, unknown>,
    status: Partial<JobStatus>,
    error?: Failure,
  ): Promise<void> => {
    const { children, process } = job.progress
    const told = { ...(children ? { children } : {}), ...process, ...status }
    const { signal } = controller
    return end(a, deps, claim, log, { outcome: o, extra, status: told, error, started_at, duration_ms, signal })
  }
  if (outcome) {
    const bytes = outcome.artifacts?.reduce((n, x) => n + (x.size_bytes ?? 0), 0) ?? 0
    if (bytes > 0) a.metrics.inc('vmspool_output_bytes_total', { kind: record.kind }, bytes)
    const made = outcome.artifacts?.map((x) => x.path)
    const more = {
      ...(outcome.exit_code === undefined ? {} : { exit_code: outcome.exit_code }),
      ...(made ? { output: made } : {}),
    }
    await finish('done', outcome, { reason: outcome.summary, ...more })
    return
  }
  await settle(a, deps, claim, log, failure?.error, job.aborted, finish)
}

async function handle(
  a: Agent,
  deps: RunnerDeps,
  claim: Claim,
  job: RunningJob,
  signal: AbortSignal,
  log: JobLog,
  show: (kind?: 'progress') => void,
): Promise<JobOutcome> {
  const { name, record } = claim
  const handler = handlers.get(record.kind)
  if (!handler) throw new Error(`There is no handler for the kind "${record.kind}".`)
  const earlierAttempts =
    claim.earlier.length === 0
      ? []
      : await endEarlier(claim.earlier, a.ownOwners, {
          graceMs: a.config.timeouts.kill_grace,
          onEnded(group, from) {
            a.metrics.inc('vmspool_leftover_groups_ended_total')
            a.log.warn('job.leftover-ended', { job: name.id, pgid: group.pid, of: from.owner })
            log.write('agent', `ended process group ${group.pid}, left over from ${from.owner}`)
          },
        })
  const context: JobContext = {
    id: name.id,
    answer: record.answer,
    epoch: name.epoch,
    owner: a.spool.owner?.id ?? '',
    manifest: record.manifest,
    drop: { ...record.drop },
    attemptDir: claim.attemptDir,
    answerDir: claim.answerDir,
    shim: { failures: name.failures, logFile: join(a.spool.layout.outputJobs, name.id, 'log') },
    publicDir: a.spool.layout.output,
    logsDir: join(claim.attemptDir, 'own'),
    earlierAttempts: [...earlierAttempts, ...(await keptFor(a, claim))],
    signal,
    config: a.config,
    spawned: childRecorder(claim.attemptDir),
    log: (stream, text) => log.write(stream, text),
    progress(p) {
      const newPhase = p.phase !== job.progress.phase
      if (newPhase || p.bytes_done !== job.progress.bytes_done) a.lastMove = performance.now()
      job.progress = p
      show(newPhase ? undefined : 'progress')
    },
    waiting(why) {
      if (job.waiting === why) return
      job.waiting = why
      deps.waits?.(name.id, why !== undefined)
      show()
    },
    ...(record.kind === 'batch' ? { family: a.batches.familyOf(claim, signal, () => job.aborted) } : {}),
    vms: () => a.vms.service(),
    resultOf: (ref) => resultOf(a.spool, ref, name.id),
    owned: async () => !a.fenced && job.aborted?.kind !== 'fenced' && (await stillClaimed(a.spool, claim)),
    ...(record.payload ? { payloadDir: join(a.spool.layout.payload, record.id) } : {}),
  }
  a.metrics.observe('vmspool_job_wait_seconds', Math.max(0, (Date.now() - Date.parse(record.drop.at)) / 1000), {
    kind: record.kind,
  })
  return handler.run(record.manifest, context)
}

async function settle(
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

async function end(
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

/** Whether the job still is this attempt's: the folder says so, not memory. */
async function stillClaimed(s: Agent['spool'], claim: Claim): Promise<boolean> {
  try {
    return (await s.fs.readdirFresh(join(s.layout.claimed, claim.owner))).includes(claim.name.file)
  } catch (e) {
    if (errno(e) === 'ENOENT') return false
    throw e
  }
}

/** Another agent has the job. Nothing of it is deleted or written any more. */
async function abandon(a: Agent, claim: Claim, log: JobLog): Promise<void> {
  await log.close()
  a.metrics.inc('vmspool_fenced_total')
  a.log.warn('job.fenced', { job: claim.name.id, name: claim.record.answer, epoch: claim.name.epoch })
}
