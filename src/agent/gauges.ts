/** What is read at a scrape, and the health report. */
import type { GaugeSample, HealthReport } from '../observe/index.ts'
import { LIBVIRT, type LibvirtGate } from './libvirt-gate.ts'
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
    ...(scheduler()?.libvirt.gauges() ?? []),
  ]
}

export function healthOf(a: Agent, gate: LibvirtGate): HealthReport {
  const failing = a.loops.filter((l) => l.failures > 0)
  const live = liveness(a)
  const stalled = stalledFor(a)
  const libvirt = gate.health()
  const reason =
    live.reason ??
    (stalled === undefined
      ? undefined
      : `${a.plan?.size} jobs wait and nothing has moved for ${Math.round(stalled / 1000)} s; their status files say what they wait for.`)
  const degraded = failing.length > 0 || a.diskFull !== undefined || a.fenced || stalled !== undefined
  return {
    status: !live.live ? 'failing' : degraded ? 'degraded' : 'ok',
    version: a.version,
    instance: a.spool.layout.instance,
    timestamp: new Date().toISOString(),
    uptime_seconds: Math.round((Date.now() - a.started.getTime()) / 1000),
    // libvirt's absence holds up VM jobs alone: it is told, and this agent is well
    checks: Object.fromEntries([
      ...a.loops.map((l) => [
        l.name,
        l.failures === 0
          ? { status: 'up' }
          : { status: 'down', message: l.error, since: l.since, failures: l.failures },
      ]),
      ...(libvirt ? [['libvirt', libvirtCheck(libvirt)]] : []),
    ]),
    running: a.running.size,
    queued: a.plan?.size ?? 0,
    ...(heldBecause(a) === undefined ? {} : { held_because: heldBecause(a) }),
    ...(reason === undefined ? {} : { reason }),
  }
}

function libvirtCheck(h: NonNullable<ReturnType<LibvirtGate['health']>>): Record<string, unknown> {
  const { state, since, reason, failures, next_try, jobs_waiting } = h
  return state === 'connected'
    ? { status: 'up', since }
    : {
        status: 'down',
        breaker: state === 'open' ? 'open' : 'closed',
        since,
        failures,
        jobs_waiting,
        ...(reason === undefined ? {} : { message: reason }),
        ...(next_try === undefined ? {} : { next_try }),
      }
}

/** Work waits, nobody holds it up on purpose, and nothing has moved for `health.stalled_after`: for how long, in ms. */
function stalledFor(a: Agent): number | undefined {
  const after = a.config.health.stalled_after
  const silent = performance.now() - a.lastMove
  // who waits for libvirt is held up on purpose
  const waits = (a.plan?.size ?? 0) > (a.plan?.parkedIn(LIBVIRT) ?? 0) && !a.paused && !a.draining
  return after > 0 && waits && silent > after ? silent : undefined
}

/** How long a round of the supervisor may take, in ms: a network file system that is away can hold one up for a while. */
const SILENT_MS = 60_000

/** Alive: the supervisor's rounds come to an end, even if with an error; an agent that is not should be restarted. */
export function liveness(a: Agent): { live: boolean; reason?: string } {
  const tick = a.loops.find((l) => l.name === 'tick')
  const silent = tick ? performance.now() - tick.lastRound : 0
  if (silent <= SILENT_MS) return { live: true }
  return { live: false, reason: `The supervisor has not finished a round for ${Math.round(silent / 1000)} s.` }
}
