/*
 * A frame is a length word (which counts itself), a header of six words, and a payload. Source: libvirt's virnetprotocol.x and
 * virkeepaliveprotocol.x.
 */
import { XdrError } from './errors.ts'
import { XdrWriter } from './xdr.ts'

/** REMOTE_PROGRAM: domains, networks, storage */
export const PROGRAM = 0x2000_8086
/** KEEPALIVE_PROGRAM: "keep" in ASCII */
export const KEEPALIVE = 0x6b65_6570
/** of both programs; never raised since 2007, for procedures are only ever appended */
export const VERSION = 1

export const Type = { call: 0, reply: 1, message: 2, stream: 3 } as const
/** `continue`: more of a stream follows */
export const Status = { ok: 0, error: 1, continue: 2 } as const
/** KEEPALIVE_PROC_PING and _PONG */
export const Keepalive = { ping: 1, pong: 2 } as const

export const HEADER_BYTES = 28
/** VIR_NET_MESSAGE_MAX and the length word, which libvirt does not count in it */
export const FRAME_MAX = 33_554_432 + 4

export interface FrameHeader {
  program: number
  version: number
  procedure: number
  type: number
  /** of the call that is answered or that opened the stream; 1 for events, 0 for keepalives */
  serial: number
  status: number
}

/** Room for the header is left in front; `finishFrame` fills it in. */
export function startFrame(): XdrWriter {
  return new XdrWriter(HEADER_BYTES)
}

/** @throws TypeError when the payload is larger than a frame may be */
export function finishFrame(
  writer: XdrWriter,
  h: Omit<FrameHeader, 'version' | 'status'> & { status?: number },
): Buffer {
  const frame = writer.done()
  if (frame.length > FRAME_MAX) {
    throw new TypeError(`A call of ${frame.length} bytes is larger than the ${FRAME_MAX} bytes that libvirt takes.`)
  }
  frame.writeUInt32BE(frame.length, 0)
  frame.writeUInt32BE(h.program, 4)
  frame.writeUInt32BE(VERSION, 8)
  frame.writeInt32BE(h.procedure, 12)
  frame.writeUInt32BE(h.type, 16)
  frame.writeUInt32BE(h.serial, 20)
  frame.writeUInt32BE(h.status ?? Status.ok, 24)
  return frame
}

export function readHeader(frame: Buffer): FrameHeader {
  return {
    program: frame.readUInt32BE(4),
    version: frame.readUInt32BE(8),
    procedure: frame.readInt32BE(12),
    type: frame.readUInt32BE(16),
    serial: frame.readUInt32BE(20),
    status: frame.readUInt32BE(24),
  }
}

export interface FrameSplitter {
  /** Takes what arrived; gives each frame that is now complete. @throws XdrError for a length that no frame can have */
  push(chunk: Buffer): Generator<Buffer, void, void>
  /** frames up to so many bytes are taken from now on */
  limit(bytes: number): void
}

/** Cuts a byte stream into frames. It holds no more than has really arrived, whatever length a frame claims to have. */
export function splitFrames(max = FRAME_MAX): FrameSplitter {
  let most = max
  /** parts of one frame, joined once it is whole: a large answer arrives in hundreds of them */
  let parts: Buffer[] = []
  let held = 0
  /** of the frame at the front, 0 while its length word is not there */
  let wanted = 0
  const join = () => {
    const all = parts.length === 1 ? parts[0]! : Buffer.concat(parts, held)
    parts = [all]
    return all
  }
  return {
    *push(chunk) {
      if (chunk.length === 0) return
      parts.push(chunk)
      held += chunk.length
      for (;;) {
        if (wanted === 0) {
          if (held < 4) return
          wanted = join().readUInt32BE(0)
          if (wanted < HEADER_BYTES || wanted > most) {
            throw new XdrError(
              `A frame claims to have ${wanted} bytes; ${HEADER_BYTES} to ${most} are allowed. This is not libvirt's protocol.`,
            )
          }
        }
        if (held < wanted) return
        const all = join()
        const frame = all.subarray(0, wanted)
        const rest = all.subarray(wanted)
        parts = rest.length > 0 ? [rest] : []
        held = rest.length
        wanted = 0
        yield frame
      }
    },
    limit(bytes) {
      most = bytes
    },
  }
}
