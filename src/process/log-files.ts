/**
 * The files of a log that is rotated: the live one, which is appended to, and numbered ones, plain until they are compressed.
 * Numbers only rise and are never used again, so they are the order of the parts and tell what is missing.
 *
 * Several processes may append, rotate and compress at once, also on several hosts, without a lock:
 * - A number is taken by creating its file exclusively, and empty; only who took it renames the live file onto it, so that
 *   rename replaces nothing (log-rotate.ts).
 * - A compressed part is written under a temporary name of its writer's own and appears whole, by rename; the plain one goes
 *   last. Two that compress the same part make the same file.
 * - Who appends holds a second name of the file while it writes (log-append.ts), unless it is the one that rotates: a
 *   rotated file without such a name can never grow again.
 */
import { lstat, readdir } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { errno } from './errno.ts'

export interface LogFiles {
  dir: string
  /** name of the file that is appended to */
  live: string
  /** a rotated file is named `<before><n><after>`, compressed `<before><n><after>.gz` */
  before: string
  after: string
}

/** A rotated part of a log. */
export interface Segment {
  n: number
  path: string
  gz: boolean
}

/** The files of a job's log, by the path of its live one: `log`, `log.<n>`, `log.<n>.gz`. */
export function logFilesOf(path: string): LogFiles {
  const live = basename(path)
  return { dir: dirname(path), live, before: `${live}.`, after: '' }
}

export function livePath(f: LogFiles): string {
  return join(f.dir, f.live)
}

export function plainPath(f: LogFiles, n: number): string {
  return join(f.dir, `${f.before}${n}${f.after}`)
}

/** Whether an error says that something is gone, or never was there. ESTALE: removed by another host of a network file system. */
export function isGone(error: unknown): boolean {
  return ['ENOENT', 'ESTALE', 'ENOTDIR'].includes(errno(error))
}

/** The result, or undefined when the file is gone. */
export async function unlessGone<T>(looked: Promise<T>): Promise<T | undefined> {
  try {
    return await looked
  } catch (error) {
    if (isGone(error)) return undefined
    throw error
  }
}

export interface Listed {
  /** parts with content, oldest first */
  segments: Segment[]
  /** numbers of plain files with content; also of those that are there compressed as well */
  plain: number[]
  /** numbers that were taken and not used (yet) */
  reserved: number[]
  /** the highest number that is taken */
  taken: number
  /** temporary files of compressions, and second names of appenders */
  others: string[]
}

/** A folder that is not there holds no parts. @throws what readdir(2) and lstat(2) throw otherwise */
export async function listFiles(f: LogFiles): Promise<Listed> {
  const listed: Listed = { segments: [], plain: [], reserved: [], taken: 0, others: [] }
  const gz = new Set<number>()
  const plain: number[] = []
  for (const name of (await unlessGone(readdir(f.dir))) ?? []) {
    if (name.startsWith(`.${f.before}`)) listed.others.push(name)
    const is = numberIn(f, name)
    if (is?.gz) gz.add(is.n)
    else if (is) plain.push(is.n)
  }
  for (const n of plain) {
    const stat = await unlessGone(lstat(plainPath(f, n)))
    // Gone since the listing: compressed in the meantime, and the compressed one was there before the plain one went.
    if (stat === undefined) gz.add(n)
    else if (stat.size === 0) listed.reserved.push(n)
    else listed.plain.push(n)
  }
  const part = (n: number): Segment =>
    gz.has(n) ? { n, path: `${plainPath(f, n)}.gz`, gz: true } : { n, path: plainPath(f, n), gz: false }
  listed.segments = [...new Set([...gz, ...listed.plain])].sort((a, b) => a - b).map(part)
  listed.plain.sort((a, b) => a - b)
  listed.taken = Math.max(0, ...gz, ...plain)
  return listed
}

function numberIn(f: LogFiles, name: string): { n: number; gz: boolean } | undefined {
  if (!name.startsWith(f.before)) return undefined
  const gz = name.endsWith(`${f.after}.gz`)
  const end = gz ? `${f.after}.gz` : f.after
  const digits = name.slice(f.before.length, name.length - end.length)
  return name.endsWith(end) && /^[1-9]\d{0,14}$/.test(digits) ? { n: Number(digits), gz } : undefined
}
