/**
 * One line of a job's log: `<RFC 3339 UTC, ms> <stdout|stderr|agent> <F|P> <content>`, the log format of Kubernetes' container
 * runtimes (CRI, https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md) with one
 * stream more, `agent`, for what vmspool itself has to say. `P`: no newline followed the content, at least not yet. The content
 * is not touched, whatever its encoding: per stream, all contents with a newline behind each `F` are exactly what was written.
 * The shim (shim.pl) writes the same.
 */

export type LogStream = 'stdout' | 'stderr' | 'agent'

/** A piece of a line. A long line may come in several; only the first has `start`. */
export interface LogPiece {
  /** undefined in what an earlier version of vmspool wrote, which marked nothing */
  stream: LogStream | undefined
  /** RFC 3339; '' without a mark */
  time: string
  bytes: Buffer
  /** a mark, or an unmarked line, begins here */
  start: boolean
  /** a newline was written behind it */
  newline: boolean
}

const newline = 10

/** One chunk that came from a stream, as the lines it is in the log. An empty chunk is nothing. */
export function markChunk(stream: LogStream, chunk: Buffer, time: string): Buffer {
  if (chunk.length === 0) return chunk
  const full = Buffer.from(`${time} ${stream} F `)
  const parts: Buffer[] = []
  let at = 0
  for (let end = chunk.indexOf(newline); end >= 0; end = chunk.indexOf(newline, at)) {
    parts.push(full, chunk.subarray(at, end + 1))
    at = end + 1
  }
  if (at < chunk.length) parts.push(Buffer.from(`${time} ${stream} P `), chunk.subarray(at), Buffer.from('\n'))
  return Buffer.concat(parts)
}

/** What vmspool itself says: every line of it a line of the log. */
export function markWords(text: string, time: string): Buffer {
  return markChunk('agent', Buffer.from(`${text.trimEnd()}\n`), time)
}

interface Mark {
  stream: LogStream
  newline: boolean
  /** where the content begins */
  content: number
}

/** `2026-11-21T10:00:00.000Z`: where a digit stands, and where what else. */
const timeShape = 'dddd-dd-ddTdd:dd:dd.dddZ '
const streams: readonly LogStream[] = ['stdout', 'stderr', 'agent']
const marks = streams.flatMap((stream) =>
  ['F', 'P'].map((tag) => ({ stream, newline: tag === 'F', text: Buffer.from(`${stream} ${tag} `) })),
)

/** The mark that a line begins with; 'short' when what is there of the line could still become one. */
function markAt(b: Buffer, from: number, end: number): Mark | 'short' | undefined {
  const length = Math.min(timeShape.length, end - from)
  for (let i = 0; i < length; i++) {
    const c = b[from + i]!
    const wanted = timeShape.charCodeAt(i)
    if (wanted === 100 ? c < 48 || c > 57 : c !== wanted) return undefined
  }
  if (length < timeShape.length) return 'short'
  const at = from + timeShape.length
  for (const m of marks) {
    const there = Math.min(m.text.length, end - at)
    if (b.compare(m.text, 0, there, at, at + there) !== 0) continue
    return there < m.text.length ? 'short' : { stream: m.stream, newline: m.newline, content: at + there }
  }
  return undefined
}

export interface LogParser {
  /** The pieces in the next bytes of the log. They share its memory. */
  push(bytes: Buffer): LogPiece[]
  /** What was held back because it could have become a mark. After it another file may follow. */
  end(): LogPiece[]
}

/** Reads a log piece by piece, in memory that does not depend on the length of its lines. */
export function logParser(): LogParser {
  /** the beginning of a line that may be a mark */
  let held: Buffer = Buffer.alloc(0)
  /** the line that the last bytes ended in */
  let open: { stream: LogStream | undefined; time: string; newline: boolean } | undefined
  let marked = false

  const piece = (bytes: Buffer, start: boolean, ended: boolean): LogPiece => ({
    stream: open?.stream,
    time: open?.time ?? '',
    bytes,
    start,
    newline: ended && (open?.newline ?? true),
  })

  function push(more: Buffer): LogPiece[] {
    const b = held.length > 0 ? Buffer.concat([held, more]) : more
    held = Buffer.alloc(0)
    const pieces: LogPiece[] = []
    let at = 0
    while (at < b.length) {
      const found = b.indexOf(newline, at)
      const end = found < 0 ? b.length : found
      const start = open === undefined
      if (open === undefined) {
        const mark = markAt(b, at, end)
        if (mark === 'short') {
          if (found < 0) {
            held = b.subarray(at)
            break
          }
          // A mark that was cut off, by a crash or a full disk, and the newline that mends it, say nothing.
          if (marked) {
            at = end + 1
            continue
          }
        }
        if (typeof mark === 'object') {
          marked = true
          open = { stream: mark.stream, time: b.toString('latin1', at, at + 24), newline: mark.newline }
          at = mark.content
        } else open = { stream: undefined, time: '', newline: true }
      }
      pieces.push(piece(b.subarray(at, end), start, found >= 0))
      if (found >= 0) open = undefined
      at = end + 1
    }
    return pieces
  }

  return {
    push,
    end() {
      const bytes = held
      const start = open === undefined
      held = Buffer.alloc(0)
      open = undefined
      return bytes.length === 0 || marked ? [] : [piece(bytes, start, false)]
    },
  }
}
