/** Reading a job's log, to its present end or to the job's end. */
import { watch } from 'node:fs'
import { logFilesOf } from '../process/log-files.ts'
import { type LogPiece, type LogStream, logParser } from '../process/log-format.ts'
import { type LogNotice, openLogReader } from '../process/log-reader.ts'
import { startOfLast } from '../process/log-tail.ts'
import { jsonLines, type Printer, textLines } from './log-print.ts'
import { pause } from './liveness.ts'
import type { View } from './place.ts'
import { isFinal, jobFolder, logPath, settled, statusOf } from './status.ts'

export interface FollowOptions {
  /** go on until the job has ended */
  follow?: boolean
  /** begin with the last so many lines; without it with the first */
  lines?: number
  /** only what came from this stream; `agent`: what vmspool itself said */
  stream?: LogStream
  signal?: AbortSignal
  /** told in a sentence, when parts of the log are missing or it was cut */
  onNotice?(sentence: string): void
}

export interface LogOptions extends FollowOptions {
  /** the files as they are, with their marks */
  raw?: boolean
  /** each line with the time at which it was written */
  timestamps?: boolean
  /** marks what came from stderr */
  colour?: boolean
  /** one JSON object a line */
  json?: boolean
}

/** How often is looked when no watch event came, in ms: a watch sees nothing of what another host writes. */
const pollMs = 1000

/**
 * The log as text, in pieces: what the job's programs wrote, byte for byte, and the lines of vmspool in between. With `follow`
 * it ends when the job has ended and everything it wrote was delivered. A log that does not exist yet is empty.
 */
export async function* readLog(place: View, id: string, o: LogOptions = {}): AsyncGenerator<Buffer> {
  if (o.raw) {
    yield* rawLog(place, id, o)
    return
  }
  const printer: Printer = o.json ? jsonLines() : textLines(o)
  for await (const pieces of readPieces(place, id, o)) {
    const bytes = printer.print(pieces)
    if (bytes.length > 0) yield bytes
  }
  const rest = printer.end()
  if (rest.length > 0) yield rest
}

/** The same as pieces of lines with their streams and times; several at once, as they come. */
export async function* readPieces(place: View, id: string, o: FollowOptions = {}): AsyncGenerator<LogPiece[]> {
  const start = o.lines === undefined ? undefined : await startOfLast(filesOf(place, id), o.lines, o)
  const parser = logParser()
  let skip = start?.skip ?? 0
  const wanted = (pieces: LogPiece[]): LogPiece[] =>
    pieces.filter((p) => {
      if (o.stream !== undefined && p.stream !== o.stream) return false
      if (skip === 0) return true
      if (p.newline) skip -= 1
      return false
    })
  for await (const next of followFiles(place, id, start?.part, o)) {
    // Another file begins: what the last one ended in the middle of has no end any more.
    const pieces = Buffer.isBuffer(next) ? parser.push(next) : parser.end()
    if (!Buffer.isBuffer(next)) o.onNotice?.(sentence(next))
    const found = wanted(pieces)
    if (found.length > 0) yield found
  }
  const rest = wanted(parser.end())
  if (rest.length > 0) yield rest
}

async function* rawLog(place: View, id: string, o: FollowOptions): AsyncGenerator<Buffer> {
  const start = o.lines === undefined ? undefined : await startOfLast(filesOf(place, id), o.lines, { raw: true })
  let skip = start?.skip ?? 0
  for await (const next of followFiles(place, id, start?.part, o)) {
    if (!Buffer.isBuffer(next)) {
      o.onNotice?.(sentence(next))
      continue
    }
    let at = 0
    for (; skip > 0 && at < next.length; skip--) {
      const end = next.indexOf(10, at)
      if (end < 0) break
      at = end + 1
    }
    if (skip === 0 && at < next.length) yield next.subarray(at)
  }
}

const filesOf = (place: View, id: string) => logFilesOf(logPath(place, id))

async function* followFiles(
  place: View,
  id: string,
  from: number | undefined,
  o: FollowOptions,
): AsyncGenerator<Buffer | LogNotice> {
  const reader = openLogReader(filesOf(place, id), from)
  const wake = waker(jobFolder(place, id))
  let nextSettle = 0
  let known = false
  try {
    for (;;) {
      // The status is read before the log: what a job wrote before it ended is then surely in what is read after.
      let status = o.follow ? await statusOf(place, id) : undefined
      if (status?.direct && !isFinal(status) && performance.now() >= nextSettle) {
        // It has no agent that would see that its shim was killed.
        nextSettle = performance.now() + pollMs
        status = (await settled(place, status)) ?? status
      }
      // A job that is not known any more was removed while we followed it.
      const ended = !o.follow || (status === undefined ? known : isFinal(status))
      known ||= status !== undefined
      yield* reader.read()
      if (ended) return
      await Promise.race([wake.next(), pause(pollMs, o.signal)])
      if (o.signal?.aborted) throw o.signal.reason
    }
  } finally {
    wake.close()
    await reader.close()
  }
}

function sentence(n: LogNotice): string {
  switch (n.notice) {
    case 'removed': {
      const which = n.from === n.to ? `Part ${n.from} of this log was` : `Parts ${n.from} to ${n.to} of this log were`
      return `${which} removed before it was read, to keep the log within logs.total_bytes.`
    }
    case 'cut':
      return 'The log was cut; here it begins anew.'
    case 'replaced':
      return 'The log was replaced by another file; here that one begins.'
    case 'damaged':
      return `Part ${n.part} of this log is damaged (${n.why}); the rest of it is left out.`
  }
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
