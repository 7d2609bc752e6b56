/** <output>/.daemon/events.jsonl: what happened, one line each, for whoever follows. Rotated by event-rotation.ts. */
import { type FileHandle, open, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { isGone, listFiles, livePath, type LogFiles, plainPath, unlessGone } from '../process/log-files.ts'
import { gunzippedSize, partBytes } from '../process/log-part.ts'
import type { Layout } from './layout.ts'
import type { Spool } from './spool.ts'

export interface SpoolEvent {
  event: string
  job?: string
  name?: string
  [field: string]: unknown
}

/** Appends one event (O_APPEND, one write: lines of several agents do not mix on a local disk). Not fsynced: the folders are the truth. */
export async function appendEvent(s: Spool, e: SpoolEvent | readonly SpoolEvent[]): Promise<void> {
  const at = new Date(s.clock.now()).toISOString()
  const lines = (Array.isArray(e) ? e : [e as SpoolEvent]).map(
    (x) => `${JSON.stringify({ at, ...x, owner: s.owner?.id })}\n`,
  )
  if (lines.length > 0) await s.fs.appendFile(join(s.layout.daemon, 'events.jsonl'), lines.join(''), 0o644)
}

/** `events.jsonl`, `events.<n>.jsonl`, `events.<n>.jsonl.gz` */
export function eventFiles(daemon: string): LogFiles {
  return { dir: daemon, live: 'events.jsonl', before: 'events.', after: '.jsonl' }
}

/** How far somebody has read: plain data, to be kept as JSON. */
export interface EventsPosition {
  /** the number of the file; the live one's is the number that it will get */
  segment: number
  /** bytes read of it, up to the end of a line */
  offset: number
  /** checksum of its beginning, so that another file of that number is not taken for it */
  head: number
  /** of the live file; a hint: while it is this one and not longer, nothing is new */
  ino: number
  /** the rotated file before it: who had it open when it was rotated may have appended still */
  late?: { segment: number; offset: number }
}

export interface ReadEvents {
  /** oldest first; only a line that was appended to a file as it was rotated may come late */
  events: (SpoolEvent & { at: string })[]
  position: EventsPosition
  /** this call had enough, there is more */
  more: boolean
  /** some that came after the old position are gone; the folders still know what became of the jobs */
  missed: boolean
}

/** So many bytes, or a little more, are read by one call. */
const enough = 4 << 20
/** So many bytes of the beginning of a file make it known again, or what was read of it, when that is less. */
const headBytes = 64

interface Part {
  n: number
  path: string
  gz: boolean
  /** of the live file: the name can be another file's by the time it is opened */
  ino?: number
}

/** The files changed between two looks at them: look again. */
class Changed extends Error {}

/**
 * The events after a position (without one: all that are still there), across rotation. When nothing is new it costs a stat.
 * Lines that are not whole yet are left for the next call; lines that are no JSON are skipped.
 * @throws what reading files throws; that a file or folder is not there is no error
 */
export async function readEvents(s: { layout: Pick<Layout, 'daemon'> }, from?: EventsPosition): Promise<ReadEvents> {
  const files = eventFiles(s.layout.daemon)
  if (from !== undefined && (await isUnchanged(files, from)))
    return { events: [], position: from, more: false, missed: false }
  return looking(() => readNew(files, from))
}

async function looking<T>(look: () => Promise<T>): Promise<T> {
  for (let tries = 0; ; tries++) {
    try {
      return await look()
    } catch (error) {
      if (!(error instanceof Changed) || tries > 20) throw error
    }
  }
}

async function readNew(files: LogFiles, from: EventsPosition | undefined): Promise<ReadEvents> {
  const parts = await partsOf(files)
  const { at, missed } = await beginAt(parts, from)
  const out: ReadEvents = { events: [], position: at, more: false, missed }
  let late = await readLate(files, from?.late, out.events)
  let left = enough
  for (const part of parts) {
    if (part.n < at.segment) continue
    const read = await readLines(part, part.n > at.segment ? 0 : at.offset, left)
    addEvents(read.lines, out.events)
    left -= read.lines.length
    Object.assign(at, { segment: part.n, offset: read.end, head: read.head, ino: part.ino ?? 0 })
    out.more = !read.whole
    if (out.more || part.ino !== undefined) break
    if (!part.gz) late = { segment: part.n, offset: read.end }
    Object.assign(at, { segment: part.n + 1, offset: 0, head: 0, ino: 0 })
  }
  if (late !== undefined) at.late = late
  return out
}

/** The position behind everything that is there now; or behind `behind.offset` of the live file, if that is the one of `behind`. */
export async function endOfEvents(
  s: { layout: Pick<Layout, 'daemon'> },
  behind?: { ino: number; offset: number },
): Promise<EventsPosition> {
  const files = eventFiles(s.layout.daemon)
  return looking(async () => {
    const parts = await partsOf(files)
    const last = parts.at(-1)
    if (last?.ino === undefined) return { segment: (last?.n ?? 0) + 1, offset: 0, head: 0, ino: 0 }
    await using file = await openPart(last)
    const { size } = await file.stat()
    const same = behind?.ino === last.ino && behind.offset <= size
    const offset = behind === undefined ? size : same ? behind.offset : 0
    return { segment: last.n, offset, head: await headIn(file, offset), ino: last.ino }
  })
}

async function isUnchanged(files: LogFiles, from: EventsPosition): Promise<boolean> {
  const live = await unlessGone(stat(livePath(files)))
  if (live === undefined || live.ino !== from.ino || live.size !== from.offset) return false
  if (from.late === undefined) return true
  return (await unlessGone(stat(plainPath(files, from.late.segment))))?.size === from.late.offset
}

/** All files, oldest first. The live one is looked at before the others are listed: rotated in between, it is found there. */
async function partsOf(files: LogFiles): Promise<Part[]> {
  const live = await unlessGone(stat(livePath(files)))
  const { segments, plain } = await listFiles(files)
  const parts: Part[] = [...segments]
  if (live === undefined) return parts
  const newest = plain.at(-1)
  const same = newest === undefined ? undefined : await unlessGone(stat(plainPath(files, newest)))
  if (same?.ino !== live.ino)
    parts.push({ n: (parts.at(-1)?.n ?? 0) + 1, path: livePath(files), gz: false, ino: live.ino })
  return parts
}

/** Where to go on: in the file of the position, whatever it is called by now; else with the first that came after it. */
async function beginAt(
  parts: readonly Part[],
  from: EventsPosition | undefined,
): Promise<{ at: EventsPosition; missed: boolean }> {
  const after = parts.filter((p) => p.n >= (from?.segment ?? 0))
  if (from !== undefined && from.offset > 0) {
    for (const part of [...after, ...parts.filter((p) => p.n < from.segment).reverse()]) {
      if ((await headOf(part, from.offset)) !== from.head) continue
      return { at: { segment: part.n, offset: from.offset, head: from.head, ino: 0 }, missed: false }
    }
  }
  // Nothing is behind it, or all files were removed and the numbers began anew.
  const next = (parts.at(-1)?.n ?? 0) + 1
  const first = after[0]?.n ?? (from === undefined || from.segment === next ? next : (parts[0]?.n ?? from.segment))
  return {
    at: { segment: first, offset: 0, head: 0, ino: 0 },
    missed: from !== undefined && (from.offset > 0 || first !== from.segment),
  }
}

/** @throws Changed when it is not there any more, or another file has its name */
async function openPart(part: Part): Promise<FileHandle> {
  const file = await unlessGone(open(part.path, 'r'))
  if (file !== undefined && (part.ino === undefined || (await file.stat()).ino === part.ino)) return file
  await file?.close()
  throw new Changed()
}

/** Checksum of a file's beginning; undefined when it is shorter than what was read of it. */
async function headOf(part: Part, offset: number): Promise<number | undefined> {
  if (part.gz) return headOfPieces(partPieces(part, 0), offset)
  await using file = await openPart(part)
  return (await file.stat()).size < offset ? undefined : headIn(file, offset)
}

async function headOfPieces(pieces: AsyncIterable<Buffer>, offset: number): Promise<number | undefined> {
  const length = Math.min(headBytes, offset)
  for await (const piece of pieces) return piece.length < length ? undefined : checksum(piece.subarray(0, length))
  return undefined
}

async function headIn(file: FileHandle, offset: number): Promise<number> {
  const head = Buffer.alloc(Math.min(headBytes, offset))
  await file.read(head, 0, head.length, 0)
  return checksum(head)
}

function checksum(bytes: Buffer): number {
  return bytes.length === 0 ? 0 : process.getBuiltinModule('node:zlib').crc32(bytes) // loaded when it is needed
}

async function* partPieces(part: Part, offset: number): AsyncGenerator<Buffer> {
  try {
    yield* partBytes(part, offset)
  } catch (error) {
    throw isGone(error) ? new Changed() : error
  }
}

interface Lines {
  lines: Buffer
  /** offset of their end */
  end: number
  /** the end of the file was reached */
  whole: boolean
  /** checksum of the beginning of the file */
  head: number
}

/** Whole lines from an offset on, about `max` bytes. */
async function readLines(part: Part, offset: number, max: number): Promise<Lines> {
  if (!part.gz) {
    await using file = await openPart(part)
    const { size } = await file.stat()
    const bytes = Buffer.allocUnsafe(Math.max(0, Math.min(max, size - offset)))
    let length = 0
    while (length < bytes.length) {
      const { bytesRead } = await file.read(bytes, length, bytes.length - length, offset + length)
      if (bytesRead === 0) break
      length += bytesRead
    }
    const { lines, end } = wholeLines(bytes.subarray(0, length), offset, offset + length < size)
    return { lines, end, whole: offset + length >= size, head: await headIn(file, end) }
  }
  const pieces: Buffer[] = []
  let length = 0
  for await (const piece of partPieces(part, offset)) {
    pieces.push(piece)
    length += piece.length
    if (length >= max) break
  }
  const { lines, end } = wholeLines(Buffer.concat(pieces), offset, length >= max)
  return { lines, end, whole: length < max, head: (await headOf(part, end)) ?? 0 }
}

function wholeLines(bytes: Buffer, offset: number, more: boolean): { lines: Buffer; end: number } {
  const last = bytes.lastIndexOf(10) + 1
  // A line that is longer than all we read at once is nobody's event.
  const used = last === 0 && more ? bytes.length : last
  return { lines: bytes.subarray(0, used), end: offset + used }
}

/** What was appended to a rotated file after it had been read. Once it is compressed nobody appends to it any more. */
async function readLate(
  files: LogFiles,
  late: EventsPosition['late'],
  events: ReadEvents['events'],
): Promise<EventsPosition['late']> {
  if (late === undefined) return undefined
  const path = plainPath(files, late.segment)
  const size = (await unlessGone(stat(path)))?.size
  if (size !== undefined && size <= late.offset) return late
  const gz = size === undefined
  const part: Part = { n: late.segment, path: gz ? `${path}.gz` : path, gz }
  if (gz && ((await unlessGone(gunzippedSize(part.path))) ?? 0) <= late.offset) return undefined
  const { lines, end } = await readLines(part, late.offset, Number.POSITIVE_INFINITY)
  addEvents(lines, events)
  return gz ? undefined : { segment: late.segment, offset: end }
}

function addEvents(lines: Buffer, events: ReadEvents['events']): void {
  for (const line of lines.toString('utf8').split('\n')) {
    if (line === '') continue
    // Behind a line that was cut off, by a full disk or a crash, the next writer's stands on the same line.
    const event = parsed(line) ?? parsed(line.slice(Math.max(0, line.lastIndexOf('{"at":'))))
    if (event !== undefined) events.push(event)
  }
}

function parsed(line: string): ReadEvents['events'][number] | undefined {
  try {
    const event = JSON.parse(line)
    return typeof event?.event === 'string' ? event : undefined
  } catch {
    return undefined
  }
}
