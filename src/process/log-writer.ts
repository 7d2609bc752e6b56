/**
 * Writes a log that is rotated by size and age, compressed, and bounded in total. Others may write the same log at the same
 * time: the shim of a command, which rotates it too, or an agent that lost the job and does not know it yet. So the file is
 * opened by its name for each write. What write() was waited for is there, whatever happens to this process.
 */
import type { FileHandle } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { openLive, writeAll } from './log-append.ts'
import { compressRest, trim } from './log-compress.ts'
import type { LogFiles } from './log-files.ts'
import { type LogStream, markChunk, markWords } from './log-format.ts'
import { rotate } from './log-rotate.ts'

export interface LogLimits {
  /** a file that is as large as this is rotated before the next write, in bytes */
  max_bytes: number
  /** … or whose first line is as old as this, in ms; 0: never */
  max_age_ms: number
  /** all files together, in bytes */
  total_bytes: number
}

export interface LogWriterOptions {
  files: LogFiles
  limits: LogLimits
  /** of new files; default 0640 */
  mode?: number
  /** ms since 1970 */
  now?: () => number
  /** Nothing is thrown at whoever writes. What is missing is said in the log as soon as it can be written again. */
  onError(error: unknown): void
}

export interface LogWriter {
  /**
   * `agent` is for words of our own, of one or more lines.
   * @returns a promise when the disk is behind, which whoever has a lot to write must wait for
   */
  write(stream: LogStream, chunk: Buffer): Promise<void> | undefined
  /** Waits until all is written. */
  flush(): Promise<void>
  /** Waits until all is written, and until what was rotated is compressed. */
  close(): Promise<void>
}

/** So much may wait in memory before writers are held back, and so much is written at once. */
const behindBytes = 1 << 20
const batchBytes = 256 << 10
/** Our own words rotate a file only when it is so much larger than it may be: a shim that is at work rotates itself. */
const wordsBytes = 1 << 20

interface Waiting {
  bytes: Buffer
  words: boolean
}

/** The file as it was when it was last written. */
interface Known {
  ino: number
  size: number
  /** when its first line was written, RFC 3339; '' when it does not say so */
  since: string
}

export function openLogWriter(o: LogWriterOptions): LogWriter {
  const { files, limits } = o
  const now = o.now ?? Date.now
  const iso = (ms: number): string => new Date(ms).toISOString()
  const queue: Waiting[] = []
  let queued = 0
  let draining: Promise<void> | undefined
  let known: Known = { ino: 0, size: 0, since: '' }
  let compressing: Promise<void> | undefined
  let lost = { bytes: 0, why: '' }
  let first = true

  function inBackground(work: () => Promise<void>): void {
    compressing ??= work()
      .catch(o.onError)
      .finally(() => {
        compressing = undefined
      })
  }
  const keepTotal = async (): Promise<void> => {
    await trim(files, limits.total_bytes, limits.max_bytes)
    await compressRest(files)
  }

  function isFull(size: number, words: boolean): boolean {
    if (size === 0) return false
    if (words) return size >= limits.max_bytes + wordsBytes
    if (size >= limits.max_bytes) return true
    return limits.max_age_ms > 0 && known.since !== '' && known.since <= iso(now() - limits.max_age_ms)
  }

  /** Takes from the queue what may be written to the file before it is full. */
  function takeBatch(force: boolean): { batch: Waiting[]; full: boolean } {
    const batch: Waiting[] = []
    let size = known.size
    for (let bytes = 0; queue.length > 0 && bytes < batchBytes; ) {
      const next = queue[0] as Waiting
      if (!force && isFull(size, next.words)) return { batch, full: true }
      known.since ||= next.bytes.toString('latin1', 0, 24)
      batch.push(next)
      queue.shift()
      size += next.bytes.length
      bytes += next.bytes.length
    }
    return { batch, full: false }
  }

  /** @returns whether the file must be rotated before there can be more */
  async function writeSome(force: boolean): Promise<boolean> {
    const { file, close } = await openLive(files, o.mode ?? 0o640)
    try {
      const { ino, size } = await file.stat()
      if (first) inBackground(() => compressRest(files)) // what an earlier writer left, when it was killed
      first = false
      if (ino !== known.ino) known = { ino, size: -1, since: size > 0 ? await firstTime(file) : '' }
      const torn = size > 0 && size !== known.size && (await byteAt(file, size - 1)) !== 10
      known.size = size
      const { batch, full } = takeBatch(force)
      if (batch.length > 0 || torn) await put(file, batch, torn) // a part ends with a line, too
      return full
    } finally {
      await close()
    }
  }

  async function put(file: FileHandle, batch: readonly Waiting[], torn: boolean): Promise<void> {
    const before: Buffer[] = torn ? [Buffer.from('\n')] : []
    if (lost.bytes > 0)
      before.push(markWords(`${lost.bytes} bytes of output could not be written here: ${lost.why}`, iso(now())))
    const first = before.reduce((n, b) => n + b.length, 0)
    const all = Buffer.concat([...before, ...batch.map((w) => w.bytes)])
    const { written, error } = await writeAll(file, all)
    known.size = error === undefined ? known.size + written : -1
    queued -= all.length - first
    if (error === undefined) lost = { bytes: 0, why: '' }
    else lose(all.length - Math.max(first, written), error)
  }

  function lose(bytes: number, error: unknown): void {
    if (lost.bytes === 0) o.onError(error)
    lost = { bytes: lost.bytes + bytes, why: (error as Error).message }
  }

  /** @throws what rotating throws, when the file is twice as large as it may be and has to wait */
  async function rotated(): Promise<boolean> {
    try {
      return (await rotate(files)) !== undefined
    } catch (error) {
      if (known.size >= 2 * limits.max_bytes) throw error
      return false
    }
  }

  async function drain(): Promise<void> {
    for (let force = false; queue.length > 0; ) {
      try {
        const full = await writeSome(force)
        force = false
        if (!full) continue
        await compressing // a flood waits here instead of filling the disk
        if (await rotated()) inBackground(keepTotal)
        // Another process rotates just now, or died doing so: not for ever.
        else if (known.size < 2 * limits.max_bytes) force = true
        else await sleep(20)
      } catch (error) {
        const dropped = queue.splice(0).reduce((n, w) => n + w.bytes.length, 0)
        queued -= dropped
        lose(dropped, error)
      }
    }
    draining = undefined // at once: what is written from now on starts another
  }

  return {
    write(stream, chunk) {
      const words = stream === 'agent'
      const bytes = words ? markWords(chunk.toString('utf8'), iso(now())) : markChunk(stream, chunk, iso(now()))
      if (bytes.length === 0) return undefined
      queue.push({ bytes, words })
      queued += bytes.length
      draining ??= Promise.resolve().then(drain)
      return queued > behindBytes ? draining : undefined
    },
    async flush() {
      await draining
    },
    async close() {
      await draining
      await compressing
    },
  }
}

async function byteAt(file: FileHandle, offset: number): Promise<number | undefined> {
  const { buffer, bytesRead } = await file.read(Buffer.alloc(1), 0, 1, offset)
  return bytesRead === 1 ? buffer[0] : undefined
}

async function firstTime(file: FileHandle): Promise<string> {
  const { buffer } = await file.read(Buffer.alloc(24), 0, 24, 0)
  const text = buffer.toString('latin1')
  return /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/.test(text) ? text : ''
}
