/** The supervisor's rounds: proving that we live, taking over from the dead, publishing, promoting, cancelling, cleaning up. */
import { readdir, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import {
  cancelRequests,
  heartbeat,
  isPaused,
  type JobName,
  openClaim,
  processCancels,
  promoteDue,
  publishCommitted,
  readSuccessor,
  reapDead,
  requestCancel,
  retain,
  settleAllStarted,
  startOwner,
  sweepStatus,
  tidyOld,
} from '../spool/index.ts'
import { carries } from './carried.ts'
import { agentGone, endEarlier } from './children.ts'
import { nextOfUnrun } from './repeat.ts'
import type { Finished } from './conclude.ts'
import type { Scheduler } from './scheduler.ts'
import type { Agent } from './state.ts'

/** Runs with the heartbeat: what the claimed/ folder says counts, not what we remember. */
export async function heartbeatRound(a: Agent, scheduler: Scheduler): Promise<void> {
  if (a.fenced) {
    await startAnew(a)
    return
  }
  const before = new Set(a.inFlight)
  const running = [...a.running.values()]
  const { fenced, owned } = await heartbeat(a.spool)
  if (fenced) {
    a.fenced = true
    a.log.error('owner.fenced', { owner: a.spool.owner?.id, running: running.length })
    a.metrics.inc('vmspool_fenced_total')
    await startAnew(a)
    return
  }
  const files = new Set(owned.map((n) => n.file))
  for (const job of running) {
    if (files.has(job.name.file) || job.ending) continue
    job.abort({ kind: 'fenced', message: 'Another agent took this job over.' })
  }
  for (const name of owned) {
    if (before.has(name.id) || a.inFlight.has(name.id)) continue
    // Ours, and nobody here works on it: a claim whose reply was lost, or an attempt that broke off.
    const found = await openClaim(a.spool, name)
    a.log.warn('claim.found', { job: name.id, taken_up: found !== undefined })
    if (found) scheduler.adopt(found)
  }
}

/** Our folders are gone: everything under the old owner ends, then we go on under a new one. */
async function startAnew(a: Agent): Promise<void> {
  for (const job of a.running.values()) job.abort({ kind: 'fenced', message: 'The agent lost its lease.' })
  const deadline = performance.now() + a.config.timeouts.kill_grace * 2
  while (a.running.size > 0 && performance.now() < deadline) await new Promise((r) => setTimeout(r, 50))
  await startOwner(a.spool, { role: a.worker ? 'worker' : 'main', version: a.version, labels: a.config.host.labels })
  if (a.spool.owner) a.ownOwners.add(a.spool.owner.id)
  a.fenced = false
  await a.plan?.refresh(true)
  a.log.info('owner.started', { owner: a.spool.owner?.id })
  a.dispatch()
}

export async function reapRound(
  a: Agent,
  scheduler: Scheduler,
  kickIntake: () => void,
  lookForCarried: () => void,
): Promise<void> {
  if (a.fenced || !a.spool.owner) return
  const r = await reapAll(a)
  if (r.deadOwners.length === 0) return
  for (const owner of r.deadOwners) a.log.warn('owner.dead', { owner })
  for (const name of r.reaped) {
    a.metrics.inc('vmspool_jobs_reaped_total')
    a.events.add({ event: 'reaped', job: name.id, epoch: name.epoch, crashes: name.crashes })
    a.log.warn('job.reaped', { job: name.id, epoch: name.epoch, crashes: name.crashes })
    a.plan?.add(name)
  }
  if (r.givenUp.length > 0) a.publish()
  lookForCarried()
  if (r.takenOver > 0) kickIntake()
  scheduler.laneMoved()
  a.dispatch()
  // Also of jobs that another host goes on with: their children here work for nobody. A child may take its time to end.
  for (const { id } of [...r.reaped, ...r.givenUp]) {
    endLeftOvers(a, id).catch((error) => a.log.error('job.leftover-stays', { job: id, error }))
  }
}

async function reapAll(a: Agent): ReturnType<typeof reapDead> {
  const reserved: string[] = []
  const next = nextOfUnrun(a)
  try {
    return await reapDead(a.spool, (c) => {
      // A heartbeat must not take it for a claim that was forgotten.
      a.inFlight.add(c.name.id)
      reserved.push(c.name.id)
      return next(c)
    })
  } finally {
    for (const id of reserved) a.inFlight.delete(id)
  }
}

async function endLeftOvers(a: Agent, id: string): Promise<void> {
  const dir = join(a.spool.layout.work, id)
  const attempts = (await readdir(dir).catch(() => []))
    .map((name) => ({
      dir: join(dir, name),
      epoch: Number.parseInt(name, 10),
      owner: name.slice(name.indexOf('-') + 1),
    }))
    .filter((e) => !a.ownOwners.has(e.owner) && agentGone(e.owner))
  await endEarlier(attempts, a.ownOwners, {
    graceMs: a.config.timeouts.kill_grace,
    onEnded(group, from) {
      a.metrics.inc('vmspool_leftover_groups_ended_total')
      a.log.warn('job.leftover-ended', { job: id, pgid: group.pid, of: from.owner })
    },
  })
}

const STATES = { done: 'succeeded', failed: 'failed', cancelled: 'cancelled', rejected: 'rejected' } as const

export async function publishRound(a: Agent, scheduler: Scheduler, finished: Map<string, Finished>): Promise<void> {
  const published = await publishCommitted(a.spool, {
    onError: (name, error) => a.log.error('publish.failed', { job: name.id, error }),
  })
  for (const { name, record, visible, outcome } of published) {
    const info = finished.get(name.id)
    finished.delete(name.id)
    a.metrics.inc('vmspool_jobs_published_total', { outcome })
    a.events.add({
      event: 'finished',
      job: name.id,
      name: record.answer,
      kind: record.kind,
      state: STATES[outcome],
      epoch: name.epoch,
      drop_file: record.drop.file,
      bytes: record.drop.bytes,
      visible,
      record: name.file,
      ...(record.parent ? { parent: record.parent.id } : {}),
      ...info,
    })
    scheduler.laneMoved(name.key)
    if (record.parent) a.batches.wake(record.parent.id)
    a.dependencies?.ended(name.id)
  }
  if (published.length > 0 && a.dependencies?.size) a.tick()
  if (published.length > 0) a.dispatch()
}

/** Aborts what runs here, and commits what waits. */
async function cancelRound(a: Agent, scheduler: Scheduler): Promise<JobName[]> {
  const requests = await cancelRequests(a.spool)
  const abortRunning = (): void => {
    for (const { id, by, force } of requests)
      a.running.get(id)?.abort({ kind: 'cancel', message: `The job was cancelled by ${by}.`, by, force })
  }
  abortRunning()
  for (const { id, by } of requests) {
    // Its run may have made the next one already: to cancel a run is to end its series.
    const next = await readSuccessor(a.spool, id)
    if (next) await requestCancel(a.spool, next.id, by)
  }
  const reserved = new Set<string>()
  try {
    return await processCancels(a.spool, {
      decide({ id, kind, rejected }) {
        // Being claimed here: two claims of one process would take it from each other.
        if (a.inFlight.has(id)) return 'leave'
        if (rejected) return 'commit'
        if (kind !== 'batch' && !(kind === 'command' && carries(a.spool, id))) return 'commit'
        if (a.draining) return 'leave'
        reserved.add(id)
        a.inFlight.add(id)
        return 'run'
      },
      run(c) {
        reserved.delete(c.name.id)
        a.inFlight.delete(c.name.id)
        scheduler.adopt(c)
        abortRunning() // at once, before it starts anything
      },
    })
  } finally {
    for (const id of reserved) a.inFlight.delete(id)
  }
}

/** Once a second: what others ask of us, and what has come due. */
export async function tickRound(a: Agent, scheduler: Scheduler, kickIntake: () => void): Promise<number | undefined> {
  if (a.fenced || !a.spool.owner) return undefined
  a.paused = await isPaused(a.spool)
  const cancelled = await cancelRound(a, scheduler)
  for (const name of cancelled) a.log.info('job.cancelled', { job: name.id })
  if (cancelled.length > 0) a.publish()
  for (const name of await promoteDue(a.spool, a.held)) a.plan?.add(name)
  if (a.spool.intake.lastListed === Number.NEGATIVE_INFINITY) kickIntake() // the next run of a job that repeats is due
  // In one loop with the cancels: two claims of one process would take a job from each other.
  const more = await a.dependencies?.round(a.held)
  await a.plan?.refresh()
  scheduler.laneMoved() // other agents move lanes too, and do not tell us
  a.dispatch()
  await tidyOld(a.spool)
  return more ? 50 : undefined
}

/** A disk that is nearly full holds the queue: what runs goes on and watches for itself. */
export async function spaceRound(a: Agent): Promise<void> {
  const s = await statfs(a.spool.layout.output)
  const free_bytes = s.bavail * s.bsize
  const { reserve_bytes } = a.config.space
  const full = free_bytes < reserve_bytes ? { free_bytes, reserve_bytes } : undefined
  if ((full === undefined) !== (a.diskFull === undefined)) {
    a.log[full ? 'error' : 'info'](full ? 'disk.full' : 'disk.free', {
      free_bytes,
      reserve_bytes,
      output: a.spool.layout.output,
    })
  }
  a.diskFull = full
  if (!full) a.dispatch()
}

/** Once a minute, and the less often the more there is to look through: a hundredth of the time at most. */
export async function cleanupRound(a: Agent): Promise<number | undefined> {
  if (a.fenced || !a.spool.owner) return undefined
  const began = performance.now()
  const mended = await sweepStatus(a.spool)
  if (mended > 0) a.log.info('status.mended', { files: mended })
  const settled = await settleAllStarted(a.spool, {
    onError: (id, error) => a.log.warn('job.unsettled', { job: id, error }),
  })
  for (const id of settled) a.log.warn('job.lost', { job: id })
  const r = a.config.retention
  const removed = await retain(a.spool, { done_ms: r.done, failed_ms: r.failed, superseded_ms: r.superseded })
  if (removed > 0) a.log.info('retention.removed', { jobs: removed })
  return Math.max(60_000, (performance.now() - began) * 100)
}
