/**
 * Keeps the index of finished jobs (docs/history.md) up to date beside the work: events every few seconds, the folders now and then. SQLite
 * is loaded when there is something to write, and the database is closed again each time. Trouble with it is said and harms nobody: lists
 * then read the folders.
 */
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { historyPath } from '../history/path.ts'
import type { History } from '../history/database.ts'
import type { Agent } from './state.ts'

const SECOND = 1000
const MINUTE = 60 * SECOND
const EVERY_MS = 5 * SECOND
/** For one part of work, so many parts of rest. */
const REST = 4

export function historyRound(a: Agent): () => Promise<number> {
  const path = historyPath(a.config.history.path)
  const began = performance.now()
  let seen = ''
  let nextOpen = 0
  let nextScan = 0
  let trouble = ''

  async function work(h: History): Promise<void> {
    const { catchUp, settleOpen } = await import('../history/catch-up.ts')
    const { beside } = await import('../history/read-text.ts')
    const { findSpool, openJobs } = await import('../history/store.ts')
    for (let more = true; more && !a.draining; ) ({ more } = await catchUp(h.db, a.spool, beside, 100))
    if (performance.now() >= nextOpen) {
      const at = performance.now()
      const found = await settleOpen(h.db, a.spool, beside)
      if (found > 0) a.log.info('history.found', { jobs: found })
      const spool = findSpool(h.db, a.spool.layout)
      const idle = !a.spool.remote && spool !== undefined && openJobs(h.db, spool).length === 0
      const every = a.spool.remote ? EVERY_MS : MINUTE
      nextOpen = idle ? Number.POSITIVE_INFINITY : performance.now() + Math.max(every, (performance.now() - at) * 100)
    }
    if (performance.now() < nextScan && findSpool(h.db, a.spool.layout)?.complete) return
    const { scan } = await import('../history/scan.ts')
    let last = performance.now()
    const scanned = await scan(h.db, a.spool, {
      read: beside,
      batch: 50,
      pause: async () => {
        await sleep((performance.now() - last) * REST)
        if (a.draining) throw new Error('the agent ends')
        if ((await stat(path)).ino !== h.ino) throw new Error('the database was removed')
        last = performance.now()
      },
    })
    // The larger, the rarer; over a network events can be lost without a crash.
    nextScan = performance.now() + Math.max(a.spool.remote ? 10 * MINUTE : 60 * MINUTE, scanned.took_ms * 50)
    if (scanned.read + scanned.removed > 0) a.log.info('history.filled', { ...scanned })
  }

  return async () => {
    if (performance.now() - began < EVERY_MS / 2) return EVERY_MS // what lives only for a moment leaves it alone
    const now = await stamp(a)
    if (now === seen && performance.now() < Math.min(nextOpen, nextScan)) return EVERY_MS
    if (nextOpen === Number.POSITIVE_INFINITY) nextOpen = performance.now() + MINUTE
    try {
      const { withHistory } = await import('../history/database.ts')
      await withHistory(path, work, { cacheKiB: 512, onNote: (message) => a.log.warn('history.renewed', { message }) })
      seen = now
      trouble = ''
      return EVERY_MS
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error)
      if (message !== trouble && !a.draining)
        a.log.warn('history.failed', { path, error, effect: 'lists read the folders, which takes longer' })
      trouble = message
      return MINUTE
    }
  }
}

/** Changes when an event is added. */
async function stamp(a: Agent): Promise<string> {
  try {
    const { ino, size } = await stat(join(a.spool.layout.daemon, 'events.jsonl'))
    return `${ino} ${size}`
  } catch {
    return 'none'
  }
}
