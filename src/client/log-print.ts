/** A log as people and programs want to read it. */
import { isUtf8 } from 'node:buffer'
import type { LogPiece, LogStream } from '../process/log-format.ts'

export interface Printer {
  print(pieces: readonly LogPiece[]): Buffer
  /** what is still held back, at the end of the log */
  end(): Buffer
}

const newline = Buffer.from('\n')
const red = Buffer.from('\x1b[31m')
const plain = Buffer.from('\x1b[0m')

/**
 * What programs wrote, byte for byte, whichever stream it came from; the lines of vmspool begin on a line of their own as `<time> vmspool: `.
 * With `timestamps` every line begins with its time, and streams that write at once do not share a line.
 */
export function textLines(o: { timestamps?: boolean; colour?: boolean }): Printer {
  /** whose line the output ends in the middle of */
  let open: LogStream | 'unmarked' | undefined
  return {
    print(pieces) {
      const out: Buffer[] = []
      for (const p of pieces) {
        const own = p.stream === 'agent'
        const whose = p.stream ?? 'unmarked'
        if (open !== undefined && open !== whose && (own || open === 'agent' || o.timestamps)) {
          out.push(newline)
          open = undefined
        }
        if (open === undefined && (own || o.timestamps) && p.time !== '')
          out.push(Buffer.from(own ? `${p.time} vmspool: ` : `${p.time} `))
        if (p.bytes.length > 0) {
          if (o.colour && p.stream === 'stderr') out.push(red, p.bytes, plain)
          else out.push(p.bytes)
          open = whose
        }
        if (p.newline) {
          out.push(newline)
          open = undefined
        } else if (own || o.timestamps) open = whose
      }
      return Buffer.concat(out)
    },
    end: () => Buffer.alloc(0),
  }
}

/** A line that is longer comes as several objects. */
const longest = 1 << 20

/**
 * One JSON object a line: `time`, `stream` (both null in what an earlier version wrote), and `text`, or `bytes` in base64 where
 * the line is not UTF-8. `partial: true`: no newline followed.
 */
export function jsonLines(): Printer {
  const open = new Map<LogStream | undefined, { time: string; parts: Buffer[]; length: number }>()
  const object = (stream: LogStream | undefined, partial: boolean): Buffer => {
    const line = open.get(stream)
    const bytes = Buffer.concat(line?.parts ?? [])
    open.delete(stream)
    return Buffer.from(
      `${JSON.stringify({
        time: line?.time || null,
        stream: stream ?? null,
        ...(isUtf8(bytes) ? { text: bytes.toString('utf8') } : { bytes: bytes.toString('base64') }),
        ...(partial ? { partial } : {}),
      })}\n`,
    )
  }
  return {
    print(pieces) {
      const out: Buffer[] = []
      for (const p of pieces) {
        const line = open.get(p.stream) ?? { time: p.time, parts: [], length: 0 }
        open.set(p.stream, line)
        if (p.bytes.length > 0) line.parts.push(Buffer.from(p.bytes))
        line.length += p.bytes.length
        if (p.newline) out.push(object(p.stream, false))
        else if (line.length >= longest) out.push(object(p.stream, true))
      }
      return Buffer.concat(out)
    },
    end: () => Buffer.concat([...open.keys()].map((stream) => object(stream, true))),
  }
}
