/** The index, brought up to date for whoever asks it a question. */
import { catchUp, settleOpen } from '../history/catch-up.ts'
import { type History, openHistory, readHistory, withHistory } from '../history/database.ts'
import { historyPath, hostPath } from '../history/path.ts'
import { type Scanned, scan } from '../history/scan.ts'
import { findSpool, forgetSpool, knownSpool, transaction } from '../history/store.ts'
import { layoutOf } from '../spool/layout.ts'
import { makeSpool } from '../spool/spool.ts'
import { reader } from './history.ts'
import type { View } from './place.ts'

export interface Told {
  /** full sentences for people */
  onNote?: (sentence: string) => void
  onProgress?: (p: Scanned) => void
}

/**
 * Does some work on an index that has every job that has ended. `spool` is the number that the index gives the spool.
 * @throws HistoryError 73, 77, 78 when there can be no index
 */
export async function withIndex<T>(place: View, told: Told, work: (h: History, spool: number) => T): Promise<T> {
  const path = historyPath(place.history)
  const hosts = process.getuid?.() === 0 ? undefined : hostIndex(place, path)
  if (hosts !== undefined) {
    try {
      return work(hosts.h, hosts.spool)
    } finally {
      hosts.h.close()
    }
  }
  return withHistory(
    path,
    async (h) => {
      await bringUpToDate(h, place, told)
      return work(h, knownSpool(h.db, place.layout).n)
    },
    told,
  )
}

/** root's index, which its agent keeps, when our own does not cover the spool. */
function hostIndex(place: View, own: string): { h: History; spool: number } | undefined {
  const covers = (path: string): { h: History; spool: number } | undefined => {
    const h = readHistory(path)
    try {
      const spool = h && findSpool(h.db, place.layout)
      if (h !== undefined && spool?.complete) return { h, spool: spool.n }
    } catch {
      // damaged: as good as none
    }
    h?.close()
    return undefined
  }
  const mine = covers(own)
  mine?.h.close()
  return mine === undefined ? covers(hostPath) : undefined
}

async function bringUpToDate(h: History, place: View, told: Told): Promise<void> {
  const read = reader(place)
  while ((await catchUp(h.db, place.spool, read)).more);
  if (findSpool(h.db, place.layout)?.complete) {
    await settleOpen(h.db, place.spool, read)
    return
  }
  await scan(h.db, place.spool, { read, ...(told.onProgress ? { onProgress: told.onProgress } : {}) })
  while ((await catchUp(h.db, place.spool, read)).more);
}

/** Reads every finished job of the spool again. Until that is done the index answers with what it has. */
export function rebuild(place: View, told: Told): Promise<Scanned> {
  return withHistory(
    historyPath(place.history),
    async (h) => {
      h.db.exec('PRAGMA cache_size = -32768')
      const read = reader(place)
      const done = await scan(h.db, place.spool, {
        read,
        full: true,
        ...(told.onProgress ? { onProgress: told.onProgress } : {}),
      })
      while ((await catchUp(h.db, place.spool, read)).more);
      return done
    },
    told,
  )
}

export interface IndexStatus {
  path: string
  /** of the database and what is beside it, in bytes */
  size_bytes: number
  spools: {
    root: string
    instance: string
    output: string
    jobs: number
    /** every finished job is in; else lists read the folders */
    complete: boolean
    /** its folders are there, and are those that were indexed */
    present: boolean
    checked_at?: string
  }[]
}

/** What the index knows, as it is; undefined when there is none. */
export async function indexStatus(place: View): Promise<IndexStatus | undefined> {
  const path = historyPath(place.history)
  const h = readHistory(path)
  if (h === undefined) return undefined
  try {
    const { stat } = await import('node:fs/promises')
    const sizes = await Promise.all(
      [path, `${path}-wal`].map((p) =>
        stat(p).then(
          (s) => s.size,
          () => 0,
        ),
      ),
    )
    const rows = h.db.prepare('SELECT * FROM spool ORDER BY root, instance').all()
    const count = h.db.prepare('SELECT count(*) AS n FROM job WHERE spool = ?')
    return {
      path,
      size_bytes: sizes.reduce((a, b) => a + b, 0),
      spools: rows.map((r) => {
        const [root, instance, output] = [String(r.root), String(r.instance), String(r.output)]
        const found = findSpool(h.db, layoutOf({ root, instance, output }))
        return {
          root,
          instance,
          output,
          jobs: Number(count.get(r.n as number)?.n),
          complete: found?.complete === true,
          present: found !== undefined,
          ...(r.checked_ms === null ? {} : { checked_at: new Date(Number(r.checked_ms)).toISOString() }),
        }
      }),
    }
  } finally {
    h.close()
  }
}

/** Forgets the spools that are not there any more. @returns the others, to be rebuilt */
export function knownPlaces(place: View): { spools: View[]; forgotten: string[] } {
  const h = openHistory(historyPath(place.history))
  try {
    const spools: View[] = []
    const forgotten: string[] = []
    for (const r of h.db.prepare('SELECT * FROM spool ORDER BY root, instance').all()) {
      const layout = layoutOf({ root: String(r.root), instance: String(r.instance), output: String(r.output) })
      if (findSpool(h.db, layout) === undefined) {
        transaction(h.db, () => forgetSpool(h.db, Number(r.n)))
        forgotten.push(`${r.root}/${r.instance}`)
      } else spools.push({ instance: layout.instance, layout, spool: makeSpool({ layout }), history: place.history })
    }
    return { spools, forgotten }
  } finally {
    h.close()
  }
}
