/**
 * Lists without looking at every job: unfinished jobs come from the folders, which are the truth, finished ones by way of the index, and
 * what every one of them says from its own status file. So an index that is behind, or wrong, costs time and never tells a lie.
 */
import { statfsSync } from 'node:fs'
import { lookUp, type News, newsOf } from '../history/news.ts'
import { type History, readHistory, withHistory } from '../history/database.ts'
import { foundJob } from '../history/job-row.ts'
import { historyPath, hostPath } from '../history/path.ts'
import { type FinishedFilter, finished } from '../history/query.ts'
import { atOnce, beside, type ReadText } from '../history/read-text.ts'
import { findSpool, openJobs, type SpoolRow, write } from '../history/store.ts'
import { type EventsPosition, readEvents } from '../spool/events.ts'
import { type FoundJob, listJobs as listFolders } from '../spool/find.ts'
import { isNetworkType } from '../process/network-fs.ts'
import type { View } from './place.ts'

/** A job that may be listed. */
export interface Candidate {
  id: string
  /** where it lies; not known of every finished one, and worked out only when it is asked for */
  job?: () => FoundJob | undefined
  /** as the index has it; the filter holds already */
  state?: string
}

export interface IndexedJobs {
  /** newest first */
  candidates: Iterator<Candidate>
  read: ReadText
  /** what a candidate of the index turned out to be: nothing is left of it */
  gone(id: string): void
  close(): Promise<void>
}

const UNFINISHED = ['new', 'held', 'claimed', 'started', 'committed'] as const
/** So many ends that the index does not have yet are looked up for one list; more are written to it first. */
const FEW = 64
const MANY = 5_000
/** How long a list may take to bring the index up to date, in ms. */
const BUDGET_MS = 2_000

/** @returns undefined when there is no index that covers the spool, or jobs/ may not be read: then the folders have to tell */
export async function indexedJobs(place: View, filter: FinishedFilter): Promise<IndexedJobs | undefined> {
  try {
    const own = await open(place, historyPath(place.history), filter)
    return own ?? (process.getuid?.() === 0 ? undefined : await open(place, hostPath, filter))
  } catch {
    return undefined // whatever is wrong with it, the folders know everything
  }
}

async function open(place: View, path: string, filter: FinishedFilter): Promise<IndexedJobs | undefined> {
  let h = readHistory(path)
  let jobs: IndexedJobs | undefined
  try {
    if (h === undefined || findSpool(h.db, place.layout)?.complete !== true) return undefined
    const read = reader(place)
    // The folders first: a job that ends meanwhile is in both, and would be in neither the other way round.
    const found = new Map((await listFolders(place.spool, { states: UNFINISHED })).map((j) => [j.name.id, j]))
    let now = await look(h, place)
    if (now !== undefined && now.news.ended.size > FEW && (await broughtUpToDate(place, path, read))) {
      h.close()
      h = readHistory(path)
      now = h && (await look(h, place))
    }
    if (h === undefined || now === undefined || now.news.ended.size > MANY) return undefined
    jobs = await together(h, place, now, found, filter, read)
    return jobs
  } finally {
    if (jobs === undefined) h?.close()
  }
}

interface Look {
  spool: SpoolRow
  news: News
}

/** One state of the index, and what the events tell beyond it. */
async function look(h: History, place: View): Promise<Look | undefined> {
  h.db.exec('BEGIN')
  const spool = findSpool(h.db, place.layout)
  if (spool?.complete !== true || spool.position === null) return undefined
  const events = []
  let from = JSON.parse(spool.position) as EventsPosition
  for (let more = true; more; ) {
    const next = await readEvents(place, from)
    if (next.missed || events.length > 20 * MANY) return undefined
    events.push(...next.events)
    from = next.position
    more = next.more
  }
  return { spool, news: newsOf(events) }
}

async function together(
  h: NonNullable<ReturnType<typeof readHistory>>,
  place: View,
  { spool, news }: Look,
  found: Map<string, FoundJob>,
  filter: FinishedFilter,
  read: ReadText,
): Promise<IndexedJobs> {
  const apart = new Map<string, Candidate>()
  for (const [id, job] of found) if (!news.ended.has(id)) apart.set(id, { id, job: () => job })
  for (const id of news.ended.keys()) apart.set(id, { id })
  // Seen before its end and in no folder: it has ended without an event, or moves at this moment.
  const missing = [...openJobs(h.db, spool), ...news.opened].filter((id) => !apart.has(id) && !news.removed.has(id))
  const { vanished } = await lookUp(place.spool, missing, read)
  const none = new Set(vanished)
  for (const id of missing) if (!none.has(id)) apart.set(id, { id })
  const gone = new Set<string>()
  return {
    candidates: merged(h, place, spool, news, apart, filter),
    read,
    gone: (id) => gone.add(id),
    async close() {
      const mixture = h.changed()
      h.close()
      if (mixture) throw new Error('The index was changed while it was read.')
      if (gone.size > 0) await forget(place, h.path, spool, gone)
    },
  }
}

function* merged(
  h: History,
  place: View,
  spool: SpoolRow,
  news: News,
  apart: ReadonlyMap<string, Candidate>,
  filter: FinishedFilter,
): Generator<Candidate> {
  const others = [...apart.values()].sort((a, b) => (a.id < b.id ? 1 : -1))
  let next = 0
  for (const row of finished(h.db, spool, filter)) {
    while (next < others.length && others[next]!.id > row.id) yield others[next++]!
    if (others[next]?.id === row.id) next += 1
    if (!news.removed.has(row.id))
      yield { id: row.id, job: () => foundJob(place.layout, row as never), state: row.state }
  }
  while (next < others.length) yield others[next++]!
}

/** Files over a network are read side by side; the small ones of a local disk faster one after the other. */
export function reader(place: View): ReadText {
  return isNetworkType(statfsSync(place.layout.output).type) ? beside : atOnce
}

async function broughtUpToDate(place: View, path: string, read: ReadText): Promise<boolean> {
  const { catchUp } = await import('../history/catch-up.ts')
  return besides(path, async (h) => {
    const end = performance.now() + BUDGET_MS
    while ((await catchUp(h.db, place.spool, read)).more && performance.now() < end);
  })
}

async function forget(place: View, path: string, spool: SpoolRow, gone: Iterable<string>): Promise<void> {
  await besides(path, (h) => {
    if (findSpool(h.db, place.layout)?.n === spool.n) write(h.db, spool, { jobs: [], removed: gone })
  })
}

/** Fills the index, a bit after each list of a spool that it does not cover yet and that is large enough to need one. */
export async function indexAlong(place: View, jobs: number, onNote: (sentence: string) => void): Promise<void> {
  if (jobs < 500) return
  const { catchUp } = await import('../history/catch-up.ts')
  const { scan } = await import('../history/scan.ts')
  await besides(
    historyPath(place.history),
    async (h) => {
      await catchUp(h.db, place.spool, reader(place))
      await scan(h.db, place.spool, { read: reader(place), budgetMs: BUDGET_MS })
    },
    onNote,
  )
}

/** Work on the index that nobody waits for in vain: it may as well not be done. */
async function besides(
  path: string,
  work: (h: History) => Promise<void> | void,
  onNote?: (sentence: string) => void,
): Promise<boolean> {
  if (path === hostPath && process.getuid?.() !== 0) return false // not ours to write
  try {
    await withHistory(path, work, onNote === undefined ? {} : { onNote })
    return true
  } catch {
    return false
  }
}
