/** What is read at a scrape, and the health report. */
import type { GaugeSample, HealthReport } from '../observe/index.ts'
import type { Scheduler } from './scheduler.ts'
import { type Agent, heldBecause } from './state.ts'

export function gaugesOf(a: Agent, scheduler: () => Scheduler | undefined): GaugeSample[] {
  const one = (name: string, help: string, value: number): GaugeSample => ({ name, help, values: [{ value }] })
  return [
    one('vmspool_jobs_queued', 'Jobs accepted and waiting to be claimed', a.plan?.size ?? 0),
    one('vmspool_jobs_running', 'Jobs that this agent runs', a.running.size),
    one('vmspool_weight_used', 'Sum of the weights of running jobs', scheduler()?.used() ?? 0),
    one('vmspool_weight_limit', 'The most that may run at once', a.config.concurrency.weight),
    one('vmspool_paused', '1 while the instance is paused', a.paused ? 1 : 0),
    one('vmspool_draining', '1 while the agent begins nothing new', a.draining ? 1 : 0),
    one('vmspool_disk_full', '1 while a full disk holds the queue', a.diskFull ? 1 : 0),
    one('vmspool_loops_failing', 'Loops whose last round failed', a.loops.filter((l) => l.failures > 0).length),
    one('vmspool_start_time_seconds', 'When the agent started, since 1970', a.started.getTime() / 1000),
  ]
}

export function healthOf(a: Agent): HealthReport {
  const failing = a.loops.filter((l) => l.failures > 0)
  const live = liveness(a)
  const status = !live.live ? 'failing' : failing.length > 0 || a.diskFull || a.fenced ? 'degraded' : 'ok'
  return {
    status,
    version: a.version,
    instance: a.spool.layout.instance,
    timestamp: new Date().toISOString(),
    uptime_seconds: Math.round((Date.now() - a.started.getTime()) / 1000),
    checks: Object.fromEntries(
      a.loops.map((l) => [
        l.name,
        l.failures === 0
          ? { status: 'up' }
          : { status: 'down', message: l.error, since: l.since, failures: l.failures },
      ]),
    ),
    running: a.running.size,
    queued: a.plan?.size ?? 0,
    ...(heldBecause(a) === undefined ? {} : { held_because: heldBecause(a) }),
    ...(live.reason === undefined ? {} : { reason: live.reason }),
  }
}

/** Alive: the heartbeat's round came to its end not too long ago, even if with an error. */
export function liveness(a: Agent): { live: boolean; reason?: string } {
  const beat = a.loops.find((l) => l.name === 'tick')
  const silent = beat ? performance.now() - beat.lastOk : 0
  if (silent <= Math.max(10_000, a.config.health.stalled_after)) return { live: true }
  return { live: false, reason: `The supervisor has not finished a round for ${Math.round(silent / 1000)} s.` }
}
