/**
 * Whether a loop of the agent gets on. Each round's operations on the spool are counted as its steps, so a long round that works is told from
 * one that hangs; and one that waits for the file system itself from both: a server that is away is not cured by a restart.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import type { SpoolFs } from '../spool/index.ts'

/** What a loop is at. Times are monotonic, in ms. */
export interface Doing {
  /** start of the round that runs, or its last step; undefined between rounds */
  busy?: number
  /** when the next round is to begin */
  due: number
}

const current = new AsyncLocalStorage<Doing>()

/** Steps of this process so far, and when the operations began that have not ended yet. */
const steps = { done: 0, open: new Map<symbol, { what: string; since: number }>() }

/** Runs a round; its operations on the spool count for `doing`. */
export function stepping<T>(doing: Doing, round: () => T): T {
  doing.busy = performance.now()
  return current.run(doing, round)
}

/** The same file system, which counts. */
export function counted(fs: SpoolFs): SpoolFs {
  const out: Record<string, unknown> = {}
  for (const [name, operation] of Object.entries(fs) as [string, (...a: unknown[]) => Promise<unknown>][]) {
    out[name] = async (...args: unknown[]) => {
      const key = Symbol(name)
      steps.open.set(key, { what: `${name} ${String(args[0])}`, since: performance.now() })
      try {
        return await operation.apply(fs, args)
      } finally {
        steps.open.delete(key)
        steps.done += 1
        const doing = current.getStore()
        if (doing?.busy !== undefined) doing.busy = performance.now()
      }
    }
  }
  return out as unknown as SpoolFs
}

export function stepsSoFar(): number {
  return steps.done
}

/** The operation that has taken longest, when it takes longer than `ms`. */
export function waitingForDisk(ms: number, now = performance.now()): { what: string; for_ms: number } | undefined {
  const [oldest] = steps.open.values() // in the order in which they began
  return oldest && now - oldest.since > ms ? { what: oldest.what, for_ms: now - oldest.since } : undefined
}

/** For how long a loop has not got on, when that is longer than `ms`. */
export function hanging(doing: Doing, ms: number, now = performance.now()): number | undefined {
  const silent = now - (doing.busy ?? doing.due)
  return silent > ms ? silent : undefined
}
