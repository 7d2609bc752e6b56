/** Following a spool: what its events tell since the last time, looked up in the files of the jobs that they name. */
import type { DatabaseSync } from 'node:sqlite'
import { type EventsPosition, readEvents } from '../spool/events.ts'
import { listJobs } from '../spool/find.ts'
import { parseJobName } from '../spool/names.ts'
import type { Spool } from '../spool/spool.ts'
import { type JobRow, readJob } from './job-row.ts'
import { lookUp, type News, newsOf } from './news.ts'
import type { ReadText } from './read-text.ts'
import { findSpool, knownSpool, openJobs, type SpoolRow, write } from './store.ts'

export interface CaughtUp {
  /** jobs written */
  jobs: number
  /** there is more to read: call again */
  more: boolean
}

/**
 * One bounded step of following: at most `limit` jobs that ended. Nothing happens when nothing is new, which costs a stat. Reads
 * files outside the transaction, so that it holds up nobody else who writes.
 */
export async function catchUp(db: DatabaseSync, s: Spool, read: ReadText, limit = 500): Promise<CaughtUp> {
  const spool = knownSpool(db, s.layout)
  if (spool.position === null) return { jobs: 0, more: false } // nobody has looked through its folders yet: scan() begins
  const from = JSON.parse(spool.position) as EventsPosition
  const { events, position, more, missed } = await readEvents(s, from)
  if (missed) db.prepare('UPDATE spool SET complete = 0 WHERE n = ?').run(spool.n)
  if (events.length === 0 && JSON.stringify(position) === spool.position) return { jobs: 0, more }
  const news = newsOf(events)
  const written = await settle(db, s, spool, news, read, limit)
  write(db, spool, {
    jobs: written.last,
    removed: news.removed,
    opened: news.opened,
    closed: [...written.closed, ...news.removed],
    position: { from: spool.position, to: position },
  })
  return { jobs: written.count, more }
}

/** Reads the jobs that ended. All but the last step are written at once: an upsert can be done again. */
async function settle(
  db: DatabaseSync,
  s: Spool,
  spool: SpoolRow,
  news: News,
  read: ReadText,
  limit: number,
): Promise<{ count: number; last: JobRow[]; closed: string[] }> {
  const closed: string[] = []
  let rows: JobRow[] = []
  let count = 0
  for (const [id, record] of news.ended) {
    const name = record === undefined ? undefined : parseJobName(record)
    const row = await readJob(s.layout, id, read, name && { name })
    if (row === undefined) {
      news.opened.add(id) // gone already, or its files lag behind over a network: looked at again
      continue
    }
    rows.push(row)
    closed.push(id)
    count += 1
    if (rows.length < limit) continue
    write(db, spool, { jobs: rows })
    rows = []
  }
  return { count, last: rows, closed }
}

/**
 * Finds the ends that no event told: of an agent that was killed between a job's last move and its event, of a shim that died. Every job
 * that was seen before its end, and is in no folder of jobs that go on, is looked up.
 * @returns how many were found
 */
export async function settleOpen(db: DatabaseSync, s: Spool, read: ReadText): Promise<number> {
  const spool = findSpool(db, s.layout)
  if (spool === undefined || spool.position === null) return 0
  const before = openJobs(db, spool)
  const going = await listJobs(s, { states: ['new', 'held', 'claimed', 'started', 'committed'] })
  const on = new Set(going.map((j) => j.name.id))
  const running = going.filter((j) => j.state !== 'new' && j.state !== 'held').map((j) => j.name.id)
  const { ended, vanished } = await lookUp(
    s,
    before.filter((id) => !on.has(id)),
    read,
  )
  write(db, spool, {
    jobs: ended,
    opened: running,
    closed: [...ended.map((r) => r.id), ...vanished],
  })
  return ended.length
}
