/** What the index knows of a spool: how far its events were read, whether all of its jobs are in, and the jobs themselves. */
import { statSync } from 'node:fs'
import type { DatabaseSync, SQLInputValue, StatementSync } from 'node:sqlite'
import { bootId } from '../process/identity.ts'
import type { EventsPosition } from '../spool/events.ts'
import type { Layout } from '../spool/layout.ts'
import { columns, type JobRow } from './job-row.ts'

export interface SpoolRow {
  n: number
  /** JSON of the position in the events behind which everything is still to be read */
  position: string | null
  /** all jobs that had ended when it was last looked through are in, and those that ended since are in the events */
  complete: boolean
  generation: number
  /** when the folders were last compared with the index, ms since 1970, and how long that took, ms */
  checked_ms: number | null
  check_took_ms: number | null
}

/** Changes of one step, written together with the position up to which they are known: all of it or nothing. */
export interface Changes {
  jobs: readonly JobRow[]
  removed?: Iterable<string>
  opened?: Iterable<string>
  closed?: Iterable<string>
  /** from → to; nothing is written when somebody else moved the position meanwhile */
  position?: { from: string | null; to: EventsPosition }
}

type Key = Pick<Layout, 'root' | 'instance' | 'output'>

/** The spool as the index has it; undefined when it has never seen it, or when another spool now lies in its place. */
export function findSpool(db: DatabaseSync, layout: Layout): SpoolRow | undefined {
  const { root, instance, output } = layout
  const row = db
    .prepare('SELECT * FROM spool WHERE root = ? AND instance = ? AND output = ?')
    .get(root, instance, output)
  const now = identity(layout)
  if (row === undefined || now === undefined || !same(String(row.identity), now)) return undefined
  return {
    n: Number(row.n),
    position: row.position as string | null,
    // After a crash of the host the last events may be missing: nobody makes them durable.
    complete: row.complete === 1 && row.boot_id === bootId(),
    generation: Number(row.generation),
    checked_ms: row.checked_ms as number | null,
    check_took_ms: row.check_took_ms as number | null,
  }
}

/** The spool's row, made when it is not there. What is known of another spool that lay in its place is forgotten. */
export function knownSpool(db: DatabaseSync, layout: Layout): SpoolRow {
  const found = findSpool(db, layout)
  if (found !== undefined) return found
  return transaction(db, () => {
    const again = findSpool(db, layout)
    if (again !== undefined) return again
    const { root, instance, output } = layout
    const old = db
      .prepare('SELECT n FROM spool WHERE root = ? AND instance = ? AND output = ?')
      .get(root, instance, output) as { n: number } | undefined
    if (old !== undefined) forgetSpool(db, old.n)
    db.prepare('INSERT INTO spool (root, instance, output, identity) VALUES (?, ?, ?, ?)').run(
      root,
      instance,
      output,
      identity(layout) ?? '',
    )
    return findSpool(db, layout)!
  })
}

/** Removes a spool and its jobs. Inside a transaction of the caller's. */
export function forgetSpool(db: DatabaseSync, n: number): void {
  for (const table of ['job', 'open_job']) db.prepare(`DELETE FROM ${table} WHERE spool = ?`).run(n)
  db.prepare('DELETE FROM spool WHERE n = ?').run(n)
}

/** Inode and, where it is known, the time of birth of output/jobs/: a spool that was deleted and made anew is another one. */
function identity(layout: Key & Pick<Layout, 'outputJobs'>): string | undefined {
  const stat = statSync(layout.outputJobs, { throwIfNoEntry: false })
  if (stat === undefined) return undefined
  // Where a filesystem keeps no birth time, Node gives the time of the last change for it.
  const born = stat.birthtimeMs === stat.ctimeMs ? '' : Math.floor(stat.birthtimeMs)
  return `${stat.ino} ${born}`
}

function same(a: string, b: string): boolean {
  const [inoA, bornA] = a.split(' ')
  const [inoB, bornB] = b.split(' ')
  return inoA === inoB && (bornA === bornB || !bornA || !bornB)
}

/** @returns false when the position was moved by somebody else: then nothing was written */
export function write(db: DatabaseSync, spool: SpoolRow, c: Changes): boolean {
  return transaction(db, () => {
    const now = db.prepare('SELECT position, generation FROM spool WHERE n = ?').get(spool.n)
    if (now === undefined) return false // somebody found another spool there
    if (c.position && now.position !== c.position.from) return false
    const put = putJob(db)
    for (const job of c.jobs) put(spool.n, Number(now.generation), job)
    each(db, 'DELETE FROM job WHERE spool = ? AND id = ?', spool.n, c.removed)
    each(db, 'INSERT OR IGNORE INTO open_job (spool, id) VALUES (?, ?)', spool.n, c.opened)
    each(db, 'DELETE FROM open_job WHERE spool = ? AND id = ?', spool.n, c.closed)
    if (c.position) db.prepare('UPDATE spool SET position = ? WHERE n = ?').run(JSON.stringify(c.position.to), spool.n)
    return true
  })
}

function each(db: DatabaseSync, sql: string, spool: number, ids: Iterable<string> | undefined): void {
  let statement: StatementSync | undefined
  for (const id of ids ?? []) {
    statement ??= db.prepare(sql)
    statement.run(spool, id)
  }
}

function putJob(db: DatabaseSync): (spool: number, generation: number, job: JobRow) => void {
  const names = ['spool', 'generation', ...columns]
  const change = ['generation', ...columns.filter((c) => c !== 'id')].map((c) => `${c} = excluded.${c}`)
  const statement = db.prepare(
    `INSERT INTO job (${names.join(', ')}) VALUES (${names.map(() => '?').join(', ')})
     ON CONFLICT (spool, id) DO UPDATE SET ${change.join(', ')}`,
  )
  return (spool, generation, job) => {
    statement.run(spool, generation, ...columns.map((c) => job[c] as SQLInputValue))
  }
}

/** Ids of jobs that were seen before their end, and whose end was not seen. */
export function openJobs(db: DatabaseSync, spool: SpoolRow): string[] {
  return (db.prepare('SELECT id FROM open_job WHERE spool = ?').all(spool.n) as { id: string }[]).map((r) => r.id)
}

export function transaction<T>(db: DatabaseSync, work: () => T): T {
  db.exec('BEGIN IMMEDIATE')
  try {
    const done = work()
    db.exec('COMMIT')
    return done
  } catch (error) {
    // A damaged or full disk may have ended the transaction already.
    if (db.isTransaction) db.exec('ROLLBACK')
    throw error
  }
}
