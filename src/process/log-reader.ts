/**
 * Reads a log that is rotated, part by part in order, as often as it grows: nothing is left out or comes twice when it is
 * rotated, compressed, cut or replaced in between.
 */
import { type FileHandle, open, stat } from 'node:fs/promises'
import { sealed } from './log-guard.ts'
import { isGone, listFiles, livePath, type LogFiles, type Segment, unlessGone } from './log-files.ts'
import { gunzippedSize, partBytes } from './log-part.ts'

/** What happened to the log beside its growing. */
export type LogNotice =
  /** parts `from` to `to` were removed, to keep the log within its bounds, before they were read */
  | { notice: 'removed'; from: number; to: number }
  /** the file became shorter, or another file took its place: it is read from its beginning */
  | { notice: 'cut' | 'replaced' }
  /** a compressed part cannot be read to its end */
  | { notice: 'damaged'; part: number; why: string }

export interface LogReader {
  /** What is there and was not read yet, in pieces of the files' bytes; a piece that begins a file comes after the whole of the one before. */
  read(): AsyncGenerator<Buffer | LogNotice>
  close(): Promise<void>
}

/** The live file, once it is open. It is read from the same descriptor however it is called later, and when it is removed. */
interface Live {
  file: FileHandle
  ino: number
  offset: number
  /** what was read last, to know a file that was cut and has grown again */
  tail: Buffer
}

const chunk = 64 * 1024
const headBytes = 4096
const tailBytes = 64

/** @param from the number of the part to begin with; default: the first that is there */
export function openLogReader(files: LogFiles, from?: number): LogReader {
  /** the last part that was read to its end */
  let last = (from ?? 1) - 1
  /** bytes read already of the part after it */
  let offset = 0
  let live: Live | undefined
  let expected = from === undefined

  /** The next part after the last that was read; says what is missing in between. */
  async function* readParts(): AsyncGenerator<Buffer | LogNotice> {
    for (;;) {
      const { segments, reserved } = await listFiles(files)
      const part = segments.find((s) => s.n > last)
      if (part === undefined) return
      let missing = part.n - last - 1
      for (const n of reserved) if (n > last && n < part.n) missing -= 1
      if (missing > 0 && expected) yield { notice: 'removed', from: last + 1, to: part.n - 1 }
      if (missing > 0) offset = 0
      expected = true
      last = part.n - 1
      try {
        if (!part.gz) await sealed(files, () => stat(part.path))
        for await (const piece of partBytes(part, offset)) {
          offset += piece.length
          yield piece
        }
      } catch (error) {
        if (isGone(error)) continue // compressed or removed since it was listed
        if (!String((error as NodeJS.ErrnoException).code).startsWith('Z_')) throw error
        yield { notice: 'damaged', part: part.n, why: (error as Error).message }
      }
      last = part.n
      offset = 0
    }
  }

  /** Opens the live file, unless a part before it was not read yet. @returns whether there is something to read */
  async function openNext(): Promise<boolean> {
    const file = await unlessGone(open(livePath(files), 'r'))
    // Listed after it was opened: when it has been rotated in between it is a part by now, and is read as that.
    const before = (await listFiles(files)).segments.some((s) => s.n > last)
    if (file === undefined || before) {
      await file?.close()
      return before
    }
    live = { file, ino: (await file.stat()).ino, offset, tail: Buffer.alloc(0) }
    offset = 0
    return true
  }

  /** The live file was read to its end, and is not the live file any more. */
  async function* leave(at: Live): AsyncGenerator<Buffer | LogNotice> {
    await sealed(files, () => at.file.stat())
    yield* readLive(at)
    const { own, later } = await partOf(files, at, last)
    if (own !== undefined) last = own
    // Not there: removed again, when later ones are; else it never became a part.
    else if (later.length > 0 && later[0]?.n !== last + 1) last += 1
    else if ((await unlessGone(stat(livePath(files)))) !== undefined) yield { notice: 'replaced' }
    live = undefined
    await at.file.close()
  }

  async function* readAll(): AsyncGenerator<Buffer | LogNotice> {
    for (;;) {
      if (live !== undefined) {
        yield* readLive(live)
        if ((await unlessGone(stat(livePath(files))))?.ino === live.ino) return
        yield* leave(live)
      }
      yield* readParts()
      if (!(await openNext())) return
    }
  }

  return {
    async *read() {
      for (;;) {
        try {
          return yield* readAll()
        } catch (error) {
          if (!isGone(error) || live === undefined) throw error
          // Another host of a network file system removed the open file: what is left of it is in the next part.
          await live.file.close().catch(() => {})
          offset = live.offset
          live = undefined
        }
      }
    },
    async close() {
      await live?.file.close()
      live = undefined
    },
  }
}

async function* readLive(at: Live): AsyncGenerator<Buffer | LogNotice> {
  if (await wasCut(at)) {
    at.offset = 0
    at.tail = Buffer.alloc(0)
    yield { notice: 'cut' }
  }
  for (;;) {
    const buffer = Buffer.allocUnsafe(chunk)
    const { bytesRead } = await at.file.read(buffer, 0, chunk, at.offset)
    if (bytesRead === 0) return
    const piece = buffer.subarray(0, bytesRead)
    at.offset += bytesRead
    at.tail = Buffer.from(piece.subarray(-tailBytes))
    yield piece
  }
}

async function wasCut(at: Live): Promise<boolean> {
  const { size } = await at.file.stat()
  if (size <= at.offset) return size < at.offset
  const before = Buffer.alloc(at.tail.length)
  await at.file.read(before, 0, before.length, at.offset - before.length)
  return !before.equals(at.tail)
}

/** The number that a file got when it was rotated: by its identity or, when it is compressed already, by its content. */
async function partOf(
  files: LogFiles,
  live: Live,
  after: number,
): Promise<{ own: number | undefined; later: Segment[] }> {
  const { size, ino } = await live.file.stat()
  const head = Buffer.alloc(Math.min(headBytes, size))
  await live.file.read(head, 0, head.length, 0)
  for (;;) {
    const later = (await listFiles(files)).segments.filter((s) => s.n > after)
    let gone = false
    for (const part of later) {
      const same = await unlessGone(isSame(part, { size, ino, head }))
      if (same) return { own: part.n, later }
      gone ||= same === undefined
    }
    if (!gone) return { own: undefined, later } // else one was compressed or removed while we looked
  }
}

async function isSame(part: Segment, is: { size: number; ino: number; head: Buffer }): Promise<boolean> {
  if (!part.gz) return (await stat(part.path)).ino === is.ino
  if ((await gunzippedSize(part.path)) !== is.size % 2 ** 32) return false
  for await (const piece of partBytes(part)) return piece.subarray(0, is.head.length).equals(is.head)
  return is.size === 0
}
