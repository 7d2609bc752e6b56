/**
 * A loop of the agent: one round after the other, never two at once, soon after a kick and otherwise at its interval. A round
 * that throws is logged, shown in the health report and repeated with growing pauses; it never ends the agent.
 */
import type { Logger } from '../observe/index.ts'
import { type Doing, stepping } from './progress-watch.ts'

export interface LoopHealth {
  name: string
  /** monotonic time of the last round that ended well, ms */
  lastOk: number
  /** monotonic time of the last round that ended at all, ms */
  lastRound: number
  failures: number
  error?: string
  since?: string
  /** for the watchdog */
  doing: Doing
}

export interface Loop {
  /** asks for a round now; one that runs is followed by another */
  kick(): void
  /** ends the loop and waits for its round */
  stop(): Promise<void>
}

const MAX_BACKOFF_MS = 30_000

export function startLoop(o: {
  name: string
  /** ms until the next round; a round may ask for another interval by returning a number */
  interval: () => number
  round: () => Promise<number | undefined> | Promise<void>
  log: Logger
  health: LoopHealth[]
  onError?: () => void
}): Loop {
  const now = performance.now()
  const health: LoopHealth = { name: o.name, lastOk: now, lastRound: now, failures: 0, doing: { due: now } }
  o.health.push(health)
  let timer: NodeJS.Timeout | undefined
  let running: Promise<void> | undefined
  let again = false
  let stopped = false
  let lastMessage = ''

  async function round(): Promise<void> {
    let wait: number | undefined
    try {
      wait = (await stepping(health.doing, o.round)) ?? undefined
      if (health.failures > 0)
        o.log.info('loop.recovered', { loop: o.name, failures: health.failures, after: health.error })
      health.failures = 0
      delete health.error
      delete health.since
      health.lastOk = performance.now()
      lastMessage = ''
    } catch (e) {
      health.failures += 1
      health.error = e instanceof Error ? e.message : String(e)
      health.since ??= new Date().toISOString()
      o.onError?.()
      // The same trouble is said once, and then each time the number of failures doubles.
      if (health.error !== lastMessage || (health.failures & (health.failures - 1)) === 0) {
        o.log.error('loop.failed', { loop: o.name, failures: health.failures, error: e })
      }
      lastMessage = health.error
      wait = Math.min(MAX_BACKOFF_MS, Math.max(o.interval(), 250 * 2 ** Math.min(health.failures - 1, 10)))
      again = false
    }
    running = undefined
    health.lastRound = performance.now()
    delete health.doing.busy
    if (stopped) return
    if (again) {
      again = false
      go()
    } else {
      wait ??= o.interval()
      health.doing.due = health.lastRound + wait
      timer = setTimeout(go, wait)
    }
  }
  function go(): void {
    clearTimeout(timer)
    running = round()
  }
  go()
  return {
    kick() {
      if (stopped) return
      if (running) again = true
      else if (health.failures === 0) go()
    },
    async stop() {
      stopped = true
      clearTimeout(timer)
      await running
      health.doing.due = Number.POSITIVE_INFINITY
    },
  }
}
