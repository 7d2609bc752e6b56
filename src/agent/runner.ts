/** One claimed job, from its claim to the end of the attempt: run the handler, then commit, put off or give back. */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { AbortReason, JobContext, JobOutcome } from '../jobs/types.ts'
import { handlers } from '../jobs/registry.ts'
import { type Claim, commitRejection, endDecided, errno, type JobStatus, type Outcome } from '../spool/index.ts'
import { childRecorder, endEarlier, forgetChildren } from './children.ts'
import { abandon, end, type RunnerDeps, settle } from './conclude.ts'
import { openJobLog, type JobLog } from './job-log.ts'
import { keptFor } from './kept.ts'
import { progressMeter } from './progress.ts'
import { nextOfUnrun } from './repeat.ts'
import { resultOf } from './result-of.ts'
import type { Agent, RunningJob } from './state.ts'
import { claimStatus, iso } from './status-fields.ts'
import type { Failure } from './verdict.ts'
import { watchdogs } from './watchdogs.ts'

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

/** Whether the job still is this attempt's: the folder says so, not memory. */
async function stillClaimed(s: Agent['spool'], claim: Claim): Promise<boolean> {
  try {
    return (await s.fs.readdirFresh(join(s.layout.claimed, claim.owner))).includes(claim.name.file)
  } catch (e) {
    if (errno(e) === 'ENOENT') return false
    throw e
  }
}
