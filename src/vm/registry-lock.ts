/** One writer of the registry after the other. Only to save work: of two that write at once the revision decides (registry-file.ts). */
import { setTimeout as sleep } from 'node:timers/promises'

/** A lock whose holder has not touched it for so long, in ms, is taken over: the holder was killed or stands still. */
const STALE_MS = 2_500
/** After so long, in ms, it is done without the lock. */
const PATIENCE_MS = 20_000

/** the last of this process, by path: its writers go one by one without asking the disk */
const queues = new Map<string, Promise<unknown>>()

export async function withRegistryLock<T>(path: string, work: () => Promise<T>): Promise<T> {
  const before = queues.get(path) ?? Promise.resolve()
  const turn = before.then(() => locked(path, work))
  const settled = turn.catch(() => {})
  queues.set(path, settled)
  try {
    return await turn
  } finally {
    if (queues.get(path) === settled) queues.delete(path)
  }
}

async function locked<T>(path: string, work: () => Promise<T>): Promise<T> {
  const { lock } = await import('proper-lockfile')
  const start = performance.now()
  let release: (() => Promise<void>) | undefined
  while (release === undefined && performance.now() - start < PATIENCE_MS) {
    try {
      release = await lock(path, { realpath: false, stale: STALE_MS, update: 1_000, onCompromised: () => {} })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ELOCKED') throw error
      await sleep(5 + Math.random() * 45)
    }
  }
  try {
    return await work()
  } finally {
    await release?.().catch(() => {}) // taken from us meanwhile: no matter
  }
}
