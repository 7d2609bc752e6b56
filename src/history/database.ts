/**
 * Opening the index. It may be deleted, damaged or of an older version at any time: then it is set aside and an empty one
 * takes its place, which is filled again from the spools' files. A connection is held for one piece of work, never kept: whoever deletes the
 * file should not have to stop an agent first.
 */
import { chmodSync, closeSync, existsSync, openSync, readSync, renameSync, rmSync, statSync } from 'node:fs'
import { basename } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { pathToFileURL } from 'node:url'
import { HistoryError, isDamage, resultCode, SQLITE_BUSY } from './errors.ts'
import { prepareFolder, refuseNetwork } from './path.ts'
import { applicationId, tables, version } from './schema.ts'

export interface History {
  path: string
  db: DatabaseSync
  /** the file itself, should another one take its place */
  ino: number
  /** a full sentence, when an earlier database was set aside for this one */
  note?: string
  close(): void
}

/** How long a writer waits for another one, in ms. */
const BUSY_MS = 10_000

/**
 * Opens the index for reading and writing; makes it when it is not there.
 * @throws HistoryError 73 when it cannot be made, 77 when it may not be written, 78 on a network filesystem, for a file that is not a
 *   history, and for one of a newer version
 */
export function openHistory(path: string, o: { cacheKiB?: number } = {}): History {
  prepareFolder(path)
  let note: string | undefined
  try {
    if (standing(path) !== 'ready') note = make(path)
    return { ...connect(path, o), ...(note === undefined ? {} : { note }) }
  } catch (error) {
    if (error instanceof HistoryError) throw error
    if (!isDamage(error)) throw unusable(path, error)
  }
  // Damaged somewhere behind its first page.
  note = replace(path, statSync(path).ino)
  return { ...connect(path, o), note }
}

/** Does one piece of work on the index; when that finds damage the index is set aside and the work is done once more, on an empty one. */
export async function withHistory<T>(
  path: string,
  work: (h: History) => T | Promise<T>,
  o: { cacheKiB?: number; onNote?: (sentence: string) => void } = {},
): Promise<T> {
  let h = openHistory(path, o)
  try {
    if (h.note !== undefined) o.onNote?.(h.note)
    return await work(h)
  } catch (error) {
    if (!isDamage(error)) throw explained(path, error)
    h.close()
    o.onNote?.(replace(path, h.ino))
    h = openHistory(path, o)
    return await work(h)
  } finally {
    h.close()
  }
}

/**
 * Opens the index for reading alone, as it is: undefined when it is not there, cannot be read, or is of another version. `changed` tells
 * whether what was read may be a mixture: only of an index in a folder that we may not write to, where SQLite can take no lock.
 */
export function readHistory(path: string): (History & { changed(): boolean }) | undefined {
  let db: DatabaseSync | undefined
  try {
    refuseNetwork(path)
    const before = stamp(path)
    const { ino } = statSync(path)
    const unlocked = !existsSync(`${path}-wal`) && !mayWrite(path)
    db = unlocked ? immutable(path) : new DatabaseSync(path, { readOnly: true, timeout: 500 })
    if (pragma(db, 'application_id') !== applicationId || pragma(db, 'user_version') !== version)
      throw new Error('other')
    const opened = db
    return { path, db, ino, close: () => opened.close(), changed: () => unlocked && stamp(path) !== before }
  } catch {
    db?.close()
    return undefined
  }
}

function immutable(path: string): DatabaseSync {
  const url = pathToFileURL(path)
  url.searchParams.set('immutable', '1')
  return new DatabaseSync(url, { readOnly: true })
}

function stamp(path: string): string {
  const { ino, size, mtimeMs } = statSync(path)
  return `${ino} ${size} ${mtimeMs} ${existsSync(`${path}-wal`)}`
}

function mayWrite(path: string): boolean {
  try {
    closeSync(openSync(path, 'r+'))
    return true
  } catch {
    return false
  }
}

function connect(path: string, o: { cacheKiB?: number }): History {
  const db = new DatabaseSync(path, { timeout: BUSY_MS })
  try {
    db.exec(`PRAGMA synchronous = NORMAL; PRAGMA cache_size = -${o.cacheKiB ?? 2048}; PRAGMA temp_store = MEMORY`)
    if (pragma(db, 'application_id') !== applicationId || pragma(db, 'user_version') !== version)
      throw new HistoryError(`The history ${path} was replaced while it was opened. Try again.`, 75)
    db.prepare('SELECT count(*) FROM spool').get()
    return { path, db, ino: statSync(path).ino, close: () => db.isOpen && db.close() }
  } catch (error) {
    db.close()
    throw error
  }
}

type Standing = 'ready' | 'absent' | 'older' | 'newer' | 'garbage' | 'stranger'

/** What lies at that path, by its first page alone (sqlite.org/fileformat.html: magic, user_version at 60, application_id at 68). */
function standing(path: string): Standing {
  const page = Buffer.alloc(100)
  let length: number
  try {
    const fd = openSync(path, 'r')
    try {
      length = readSync(fd, page, 0, 100, 0)
    } finally {
      closeSync(fd)
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 'absent'
    throw error
  }
  if (length === 0) return 'absent'
  if (length < 100 || page.toString('latin1', 0, 16) !== 'SQLite format 3\0') return 'garbage'
  if (page.readUInt32BE(68) !== applicationId) return 'stranger'
  const found = page.readUInt32BE(60)
  return found === version ? 'ready' : found < version ? 'older' : 'newer'
}

/** Makes the database under a lock of its own: of several that come at once one makes it, the others find it made. */
function make(path: string): string | undefined {
  const ours = basename(path) === 'history.db' || existsSync(`${path}-lock`)
  return locked(path, () => {
    const found = standing(path)
    switch (found) {
      case 'ready':
        return undefined
      case 'newer':
        throw new HistoryError(
          `The history ${path} was made by a newer version of vmspool. Use that one, or name another file with history.path; ` +
            'removing the file loses nothing, since it is only an index.',
          78,
        )
      case 'stranger':
        throw new HistoryError(
          `${path} is a database, but not a history of vmspool, and is left as it is. Name another file with history.path.`,
          78,
        )
      case 'garbage':
        // A history.path that names some file by mistake must not move that file away.
        if (!ours)
          throw new HistoryError(
            `${path} is not a history of vmspool, and is left as it is. Name another file with history.path, or move it away.`,
            78,
          )
        create(path)
        return said(path, 'is damaged')
      case 'older':
        create(path)
        return said(path, 'is of an older version')
      default:
        create(path)
        return undefined
    }
  })
}

/** Puts an empty database in the place of a damaged one, unless somebody was faster. @returns what happened, as a sentence */
function replace(path: string, damaged: number): string {
  return locked(path, () => {
    if (!existsSync(path) || statSync(path).ino === damaged) create(path)
    return said(path, 'is damaged')
  })
}

function said(path: string, why: string): string {
  return `The history ${path} ${why}; it was moved to ${path}.old and is filled again from the files of the spools.`
}

function create(path: string): void {
  if (existsSync(path) && statSync(path).size > 0) {
    rmSync(`${path}.old-wal`, { force: true })
    renameSync(path, `${path}.old`)
    if (existsSync(`${path}-wal`)) renameSync(`${path}-wal`, `${path}.old-wal`)
  }
  // Of a database that is gone: SQLite would take its pages for the new one's.
  for (const end of ['', '-wal', '-shm']) rmSync(path + end, { force: true })
  const aside = `${path}.new`
  for (const end of ['', '-wal', '-shm', '-journal']) rmSync(aside + end, { force: true })
  const root = process.getuid?.() === 0
  closeSync(openSync(aside, 'wx', 0o600)) // the files beside it get its mode
  if (root) chmodSync(aside, 0o644)
  const db = new DatabaseSync(aside)
  try {
    db.exec(`PRAGMA journal_mode = WAL; PRAGMA application_id = ${applicationId}; PRAGMA user_version = ${version}`)
    db.exec(`BEGIN; ${tables} COMMIT`)
  } finally {
    db.close() // which leaves everything in the one file
  }
  renameSync(aside, path)
}

/** Runs `work` while no other process does so for the same path; the kernel ends the lock with its process. */
function locked<T>(path: string, work: () => T): T {
  const lock = new DatabaseSync(`${path}-lock`, { timeout: BUSY_MS })
  try {
    lock.exec('BEGIN EXCLUSIVE')
    return work()
  } finally {
    lock.close()
  }
}

function pragma(db: DatabaseSync, name: string): number {
  return Number(Object.values(db.prepare(`PRAGMA ${name}`).get() ?? {})[0])
}

/** What SQLite says as a full sentence; other errors as they are. */
function explained(path: string, error: unknown): unknown {
  const code = resultCode(error)
  if (code === undefined) return error
  const { message } = error as Error
  if (code === SQLITE_BUSY)
    return new HistoryError(
      `Other processes have been writing to the history ${path} for ${BUSY_MS / 1000} s. Try again.`,
      75,
      { cause: error },
    )
  return new HistoryError(
    `The history ${path} cannot be written: ${message}. Look at the space and the permissions there, or name another file with history.path.`,
    74,
    { cause: error },
  )
}

function unusable(path: string, error: unknown): HistoryError {
  const { code, message } = error as NodeJS.ErrnoException
  const denied = code === 'EACCES' || code === 'EPERM' || /readonly|unable to open|not authorized/.test(message)
  return new HistoryError(
    `The history ${path} cannot be used: ${message}. Check its owner and mode, or name another file with history.path.`,
    denied ? 77 : 74,
    { cause: error },
  )
}
