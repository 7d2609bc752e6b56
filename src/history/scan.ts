/**
 * Looking through the folders of a spool: fills an empty index, and finds what its events did not tell (nobody makes them durable, and
 * over a network two hosts can overwrite each other's). Streams the folders, so that a million jobs take no more memory than a thousand.
 */
import { opendir } from 'node:fs/promises'
import type { DatabaseSync } from 'node:sqlite'
import { bootId } from '../process/identity.ts'
import { endOfEvents } from '../spool/events.ts'
import { type JobName, OUTCOMES, type Outcome, parseJobName, ULID } from '../spool/names.ts'
import type { Spool } from '../spool/spool.ts'
import { settleOpen } from './catch-up.ts'
import { foundJob, type JobRow, readJob } from './job-row.ts'
import type { ReadText } from './read-text.ts'
import { knownSpool, type SpoolRow, transaction, write } from './store.ts'

export interface ScanOptions {
  read: ReadText
  /** read every job again, also those that the index has */
  full?: boolean
  /** called between two batches; may wait, to leave the processor to others */
  pause?: () => Promise<void> | void
  onProgress?: (p: Scanned) => void
  /** jobs read and written at once */
  batch?: number
  /** stop after about this long, in ms; what was read stays, and the next call goes on with the rest */
  budgetMs?: number
}

export interface Scanned {
  /** finished jobs found in the folders */
  seen: number
  /** of these, read and written now */
  read: number
  /** rows of jobs that are not there any more */
  removed: number
  /** the end was reached: the index now has every finished job */
  complete: boolean
  took_ms: number
}

interface Found {
  id: string
  record?: { name: JobName; outcome: Outcome }
}

const BATCH = 250

export async function scan(db: DatabaseSync, s: Spool, o: ScanOptions): Promise<Scanned> {
  const began = performance.now()
  const boot = bootId()
  const spool = await begin(db, s)
  const p: Scanned = { seen: 0, read: 0, removed: 0, complete: false, took_ms: 0 }
  const done = (): Scanned => Object.assign(p, { took_ms: Math.round(performance.now() - began) })
  let batch: Found[] = []
  const flush = async (): Promise<boolean> => {
    p.seen += batch.length
    p.read += await take(db, s, spool, batch, o)
    batch = []
    o.onProgress?.(done())
    await o.pause?.()
    return o.budgetMs === undefined || performance.now() - began < o.budgetMs
  }
  for await (const found of finishedIn(s)) {
    batch.push(found)
    if (batch.length >= (o.batch ?? BATCH) && !(await flush())) return done()
  }
  if (!(await flush())) return done()
  p.removed = await sweep(db, s, spool, p.seen, o)
  await settleOpen(db, s, o.read)
  p.complete = true
  done()
  db.prepare('UPDATE spool SET complete = 1, boot_id = ?, checked_ms = ?, check_took_ms = ? WHERE n = ?').run(
    boot,
    Date.now(),
    p.took_ms,
    spool.n,
  )
  return p
}

/** Events from before the look at the folders on are read by those who follow: so nothing falls between the two. */
async function begin(db: DatabaseSync, s: Spool): Promise<SpoolRow> {
  const known = knownSpool(db, s.layout)
  const end = known.position === null ? JSON.stringify(await endOfEvents(s)) : null
  return transaction(db, () => {
    const sql =
      'UPDATE spool SET generation = generation + 1, position = coalesce(position, ?) WHERE n = ? RETURNING generation'
    const row = db.prepare(sql).get(end, known.n) as { generation: number } | undefined
    return { ...known, generation: row?.generation ?? known.generation }
  })
}

async function* finishedIn(s: Spool): AsyncGenerator<Found> {
  try {
    for (const outcome of OUTCOMES) {
      for await (const file of namesOf(s.layout[outcome])) {
        const name = parseJobName(file)
        if (name) yield { id: name.id, record: { name, outcome } }
      }
    }
  } catch (error) {
    if (!['EACCES', 'EPERM'].includes(String((error as NodeJS.ErrnoException).code))) throw error
    // A client that may not read jobs/ has the statuses.
    for await (const id of namesOf(s.layout.outputJobs)) if (ULID.test(id)) yield { id }
  }
}

async function* namesOf(dir: string): AsyncGenerator<string> {
  try {
    for await (const entry of await opendir(dir, { bufferSize: 512 })) yield entry.name
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}

async function take(db: DatabaseSync, s: Spool, spool: SpoolRow, batch: Found[], o: ScanOptions): Promise<number> {
  const wanted = o.full ? batch : unknown(db, spool, batch)
  const rows = await Promise.all(wanted.map((f) => readJob(s.layout, f.id, o.read, f.record)))
  const jobs = rows.filter((r) => r !== undefined)
  if (jobs.length > 0) write(db, spool, { jobs, closed: jobs.map((j) => j.id) })
  return jobs.length
}

/** Those that the index does not have, or has without what their record tells. */
function unknown(db: DatabaseSync, spool: SpoolRow, batch: Found[]): Found[] {
  const has = db.prepare('SELECT ticket FROM job WHERE spool = ? AND id = ?')
  return batch.filter((f) => {
    const row = has.get(spool.n, f.id)
    return row === undefined || (row.ticket === null && f.record !== undefined)
  })
}

/** Removes rows of jobs that are gone: after a full look those that it did not see, else, when there are too many, those without files. */
async function sweep(db: DatabaseSync, s: Spool, spool: SpoolRow, seen: number, o: ScanOptions): Promise<number> {
  let removed = 0
  if (o.full) {
    const some = db.prepare(
      'DELETE FROM job WHERE n IN (SELECT n FROM job WHERE spool = ? AND generation < ? LIMIT 2000) RETURNING n',
    )
    for (let n = -1; n !== 0; removed += n) {
      n = some.all(spool.n, spool.generation).length
      await o.pause?.()
    }
    return removed
  }
  const { n } = db.prepare('SELECT count(*) AS n FROM job WHERE spool = ?').get(spool.n) as { n: number }
  if (n <= seen) return 0
  const page = db.prepare('SELECT * FROM job WHERE spool = ? AND id > ? ORDER BY id LIMIT 500')
  for (let after = ''; ; ) {
    const rows = page.all(spool.n, after) as unknown as JobRow[]
    if (rows.length === 0) return removed
    after = rows.at(-1)!.id
    const gone = (await Promise.all(rows.map((r) => isGone(s, r, o.read)))).filter((id) => id !== undefined)
    if (gone.length > 0) write(db, spool, { jobs: [], removed: gone })
    removed += gone.length
    await o.pause?.()
  }
}

async function isGone(s: Spool, row: JobRow, read: ReadText): Promise<string | undefined> {
  if ((await read(`${s.layout.outputJobs}/${row.id}/status.json`)) !== undefined) return undefined
  const record = foundJob(s.layout, row as never)
  return record !== undefined && (await read(record.path)) !== undefined ? undefined : row.id
}
