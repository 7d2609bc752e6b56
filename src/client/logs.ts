/** Reading a job's log, to its present end or to the job's end. */
import { watch } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { pause } from './liveness.ts'
import type { Place } from './place.ts'
import { isFinal, jobFolder, logPath, statusOf } from './status.ts'

export interface FollowOptions {
  /** go on until the job has ended */
  follow?: boolean
  /** begin with the last so many lines; without it with the first */
  lines?: number
  signal?: AbortSignal
}

/** How often the log is opened when no watch event came, in ms: a watch sees nothing of what another host writes. */
const pollMs = 500
const chunk = 64 * 1024

/**
 * The log's bytes, in pieces. With `follow` it ends when the job has ended and everything it wrote was delivered. A log
 * that does not exist yet is empty; one that was replaced or cut is read again from its beginning.
 */
export async function* readLog(place: Place, id: string, o: FollowOptions = {}): AsyncGenerator<Buffer> {
  const path = logPath(place, id)
  const wake = waker(jobFolder(place, id))
  let at: { ino: number; offset: number } | undefined
  try {
    for (;;) {
      // The status is read before the log: what a job wrote before it ended is then surely in what is read after.
      const status = await statusOf(place, id)
      const ended = !o.follow || (status !== undefined && isFinal(status))
      const file = await openIfThere(path)
      if (file !== undefined) {
        try {
          const stat = await file.stat()
          if (at === undefined) at = { ino: stat.ino, offset: await startOf(file, stat.size, o.lines) }
          else if (at.ino !== stat.ino || stat.size < at.offset) at = { ino: stat.ino, offset: 0 }
          for (;;) {
            const buffer = Buffer.allocUnsafe(chunk)
            const { bytesRead } = await file.read(buffer, 0, chunk, at.offset)
            if (bytesRead === 0) break
            at.offset += bytesRead
            yield buffer.subarray(0, bytesRead)
          }
        } finally {
          await file.close()
        }
      }
      if (ended) return
      await Promise.race([wake.next(), pause(pollMs, o.signal)])
      if (o.signal?.aborted) throw o.signal.reason
    }
  } finally {
    wake.close()
  }
}

async function openIfThere(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, 'r')
  } catch (error) {
    if (['ENOENT', 'ESTALE'].includes(String((error as NodeJS.ErrnoException).code))) return undefined
    throw error
  }
}

/** The offset at which the last `lines` lines begin. */
async function startOf(file: FileHandle, size: number, lines: number | undefined): Promise<number> {
  if (lines === undefined) return 0
  if (lines === 0) return size
  let end = size
  let found = 0
  while (end > 0) {
    const from = Math.max(0, end - chunk)
    const buffer = Buffer.alloc(end - from)
    await file.read(buffer, 0, buffer.length, from)
    for (let i = buffer.length - 1; i >= 0; i--) {
      if (buffer[i] !== 10 || from + i === size - 1) continue
      found += 1
      if (found === lines) return from + i + 1
    }
    end = from
  }
  return 0
}

/** A watch on the job's folder as a hint; where none is possible (limit reached, folder missing) the polling is enough. */
function waker(folder: string): { next(): Promise<void>; close(): void } {
  let resolve: (() => void) | undefined
  let pending = false
  const onEvent = (): void => {
    pending = true
    resolve?.()
  }
  let watcher: ReturnType<typeof watch> | undefined
  try {
    watcher = watch(folder, onEvent)
    watcher.on('error', () => watcher?.close())
  } catch {
    watcher = undefined
  }
  return {
    next() {
      if (pending) {
        pending = false
        return Promise.resolve()
      }
      return new Promise((done) => {
        resolve = () => {
          pending = false
          resolve = undefined
          done()
        }
      })
    },
    close() {
      watcher?.close()
    },
  }
}
