/**
 * What systemd is told (sd_notify(3)): that the agent is ready, reads its configuration again or ends; one line for `systemctl status`;
 * and that it gets on. The watchdog is fed as long as every loop does (progress-watch.ts), not by a timer alone. Without systemd
 * nothing happens.
 */
import { writeSync } from 'node:fs'
import { hanging, stepsSoFar, waitingForDisk } from './progress-watch.ts'
import { type Agent, heldBecause } from './state.ts'

export interface Manager {
  ready(): void
  /** around the reading of the configuration */
  reloading(): void
  reloaded(): void
  /** the agent ends: nothing more is said after it */
  ended(): void
}

/** How often it is looked whether there is something to say, in ms. */
const LOOK_MS = 500
/** While starting or draining, more time is asked for this often, ms; and each time so much. */
const EXTEND_EVERY_MS = 5_000
const EXTENSION_MS = 60_000

export interface NotifyOptions {
  env?: NodeJS.ProcessEnv
  /** sends one message; false when it was not taken and is to come again */
  send?: (message: string) => boolean
  /** an operation on the spool that takes longer than this, in ms, waits for the file system */
  slowDiskMs?: number
}

export function tellManager(a: Agent, o: NotifyOptions = {}): Manager {
  const env = o.env ?? process.env
  const fd = Number(env.NOTIFY_FD)
  const send = o.send ?? (Number.isInteger(fd) && fd > 2 ? writer(fd, a) : undefined)
  if (send === undefined) {
    if (env.NOTIFY_SOCKET !== undefined)
      a.log.warn('systemd.silent', {
        why: 'NOTIFY_SOCKET is set and NOTIFY_FD is not: start the agent with bin/vmspool, which needs /usr/bin/perl',
      })
    return { ready() {}, reloading() {}, reloaded() {}, ended() {} }
  }
  const watchdog = Number(env.WATCHDOG_USEC) / 1000 || undefined
  const mine = env.WATCHDOG_PID === undefined || env.WATCHDOG_PID === String(process.pid)
  const feedEvery = watchdog !== undefined && mine ? watchdog / 4 : undefined

  let phase: 'starting' | 'running' | 'stopping' | 'ended' = 'starting'
  let unsent: string[] = []
  let said = ''
  let fed = Number.NEGATIVE_INFINITY
  let extended = Number.NEGATIVE_INFINITY
  let stepsThen = -1
  let complained = false

  /** States come in order; what could not be sent is tried again before anything else. */
  const tell = (...lines: string[]): void => {
    unsent.push(lines.join('\n'))
    while (unsent.length > 0 && send(unsent[0] as string)) unsent = unsent.slice(1)
    if (unsent.length > 16) unsent = unsent.slice(-16)
  }

  const look = (): void => {
    const now = performance.now()
    const lines: string[] = []
    if (a.draining && phase === 'running') {
      phase = 'stopping'
      extended = Number.NEGATIVE_INFINITY
      lines.push('STOPPING=1')
    }
    const disk = waitingForDisk(o.slowDiskMs ?? 10_000, now)
    const stuck = disk || watchdog === undefined ? undefined : stuckLoop(a, watchdog, now)
    if (stuck && !complained) a.log.error('watchdog.hungry', { loop: stuck.name, silent_ms: Math.round(stuck.ms) })
    complained = stuck !== undefined
    if (!stuck && feedEvery !== undefined && now - fed >= feedEvery - LOOK_MS) {
      fed = now
      lines.push('WATCHDOG=1')
    }
    // A long start or end is no reason to be killed; one that stands still is.
    const moves = stepsSoFar() !== stepsThen || disk !== undefined || a.running.size > 0
    if (phase !== 'running' && phase !== 'ended' && moves && !stuck && now - extended >= EXTEND_EVERY_MS) {
      extended = now
      stepsThen = stepsSoFar()
      lines.push(`EXTEND_TIMEOUT_USEC=${EXTENSION_MS * 1000}`)
    }
    const status = statusLine(a, phase, {
      ...(disk ? { disk } : {}),
      ...(stuck ? { stuck } : {}),
    })
    if (status !== said) {
      said = status
      lines.push(`STATUS=${status}`)
    }
    if (lines.length > 0 || unsent.length > 0) tell(...lines)
  }
  const timer = setInterval(look, Math.max(20, Math.min(LOOK_MS, (feedEvery ?? LOOK_MS) / 2)))
  timer.unref()
  look()

  return {
    ready() {
      phase = 'running'
      tell('READY=1')
      look()
    },
    reloading() {
      if (phase === 'running') tell('RELOADING=1', `MONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`)
    },
    reloaded() {
      if (phase === 'running') tell('READY=1')
    },
    ended() {
      clearInterval(timer)
      phase = 'ended'
      tell('STOPPING=1', 'STATUS=ended in good order')
    },
  }
}

function writer(fd: number, a: Agent): (message: string) => boolean {
  let broken = false
  return (message) => {
    if (message === '' || broken) return true
    try {
      writeSync(fd, message)
      return true
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'EAGAIN' || code === 'ENOBUFS') return false // systemd is busy
      broken = true
      a.log.warn('systemd.silent', { why: 'its socket does not take messages any more', error })
      return true
    }
  }
}

function stuckLoop(a: Agent, ms: number, now: number): { name: string; ms: number } | undefined {
  for (const l of a.loops) {
    const silent = hanging(l.doing, ms, now)
    if (silent !== undefined) return { name: l.name, ms: silent }
  }
  return undefined
}

/** One line: what runs, what waits, what is to run later; and why nothing is begun, or no VM job gets on, when that is so. */
function statusLine(
  a: Agent,
  phase: string,
  t: { disk?: { what: string; for_ms: number }; stuck?: { name: string; ms: number } } = {},
): string {
  const parts = [`${a.running.size} running, ${a.plan?.size ?? 0} waiting`]
  const later = a.held.timed.length + a.held.waiting.length
  if (later > 0) parts[0] += `, ${later} for later`
  if (phase === 'starting') parts[0] = 'starting'
  const held = heldBecause(a)
  if (held !== undefined) parts.push(`held: ${held}`)
  const libvirt = a.vms.opened()?.link.health()
  if (libvirt && libvirt.state !== 'connected' && libvirt.failures > 0)
    parts.push(`VM jobs wait for libvirt since ${libvirt.since}${libvirt.reason ? `: ${libvirt.reason}` : ''}`)
  if (t.disk) parts.push(`waits for the file system (${t.disk.what})`)
  if (t.stuck) parts.push(`the loop "${t.stuck.name}" hangs`)
  const failing = a.loops.filter((l) => l.failures > 0)
  for (const l of failing) parts.push(`${l.name} fails: ${l.error ?? ''}`)
  return parts.join('; ').replace(/\s+/g, ' ').slice(0, 500)
}
