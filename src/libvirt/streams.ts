/*
 * Streams: after a call that opens one, bytes go both ways in frames of their own, with the call's serial and procedure. Source:
 * libvirt's virnetprotocol.x and docs/internals/rpc. "continue" carries bytes, and none at the end of what the daemon has; "ok" asks for
 * the end; "error" gives the stream up, with a reason if the daemon sends it. The daemon confirms both by "ok", old ones the latter by
 * "error".
 */
import { type ConnectionError, DeadlineError, LibvirtError, XdrError } from './errors.ts'
import { finishFrame, type FrameHeader, HEADER_BYTES, PROGRAM, startFrame, Status, Type } from './frame.ts'
import { readRemoteError } from './structs.ts'
import type { Transport } from './transport.ts'
import { XdrReader } from './xdr.ts'

/**
 * Iterating gives what arrives, until the other side ends; it throws LibvirtError when the daemon gives the stream up, ConnectionError when
 * the connection is lost. While nobody reads, at most a few MiB are held, and then the whole connection stops being read.
 */
export interface ByteStream extends AsyncIterable<Buffer>, AsyncDisposable {
  /**
   * Resolves when the system has taken the bytes, which it does only as fast as the daemon reads them. Calls keep their order.
   * @throws what ended the stream
   */
  write(data: Uint8Array): Promise<void>
  /**
   * An orderly end, in both directions: resolves when the daemon has confirmed it.
   * @throws LibvirtError when what was written was not taken well, DeadlineError, ConnectionError
   */
  finish(o?: { deadline_ms?: number }): Promise<void>
  /** Gives it up. Resolves when the daemon has confirmed that, the connection is over, or after two seconds. */
  abort(): Promise<void>
}

/** The stream as the channel sees it. */
export interface StreamEnd {
  procedure: string
  begun(serial: number, number: number): void
  /** @throws XdrError when nothing more may come */
  data(bytes: Buffer): void
  /** the last frame was there, or the connection is over */
  over(error?: Error): void
  /** what the daemon confirms is taken as what we asked for */
  asked(): 'finish' | 'abort' | undefined
  /** the call was given up before it was answered */
  giveUp(): void
}

export interface Streams {
  make(procedure: string): { stream: ByteStream; end: StreamEnd }
  begin(serial: number, number: number, end: StreamEnd): void
  /** the call that was to open it failed */
  refused(serial: number): void
  /** @throws XdrError for a frame of no stream, or none that may come */
  take(frame: Buffer, h: FrameHeader): void
  lost(reason: ConnectionError): void
  /** is the connection not being read? */
  paused(): boolean
}

/** so many bytes are held for a reader before the connection is paused, and again read */
const HELD_MOST = 1024 * 1024
const HELD_AGAIN = 256 * 1024
/** of one frame we send; libvirt takes 4 to 32 MiB, older ones 256 KiB */
const CHUNK = 64 * 1024
const ABORT_MS = 2000
const FINISH_MS = 40_000

export function streamsOf(transport: Transport): Streams {
  const open = new Map<number, { number: number; end: StreamEnd }>()
  const full = new Set<StreamEnd>()
  const pause = (end: StreamEnd, on: boolean): void => {
    const before = full.size > 0
    if (on) full.add(end)
    else full.delete(end)
    if (full.size > 0 !== before) transport.pause(!before)
  }
  const finished = (serial: number): void => void open.delete(serial)

  return {
    make: (procedure) => makeStream(procedure, transport, pause),
    begin(serial, number, end) {
      open.set(serial, { number, end })
      end.begun(serial, number)
    },
    refused(serial) {
      open.get(serial)?.end.over()
      finished(serial)
    },
    take(frame, h) {
      const s = open.get(h.serial)
      if (!s) throw new XdrError(`a part of stream ${h.serial}, which is not open.`)
      if (s.number !== h.procedure) {
        throw new XdrError(
          `a part of procedure ${h.procedure} of stream ${h.serial}, which was opened by ${s.end.procedure}.`,
        )
      }
      if (h.status === Status.continue) return s.end.data(frame.subarray(HEADER_BYTES))
      const reader = new XdrReader(frame, HEADER_BYTES)
      if (h.status === Status.ok) {
        reader.end()
        if (s.end.asked() === undefined) throw new XdrError(`the end of stream ${h.serial}, which nobody asked for.`)
        finished(h.serial)
        s.end.over()
      } else if (h.status === Status.error) {
        const error = new LibvirtError(s.end.procedure, readRemoteError(reader))
        reader.end()
        finished(h.serial)
        s.end.over(s.end.asked() === 'abort' ? undefined : error)
      } else throw new XdrError(`a part of stream ${h.serial} with status ${h.status}.`)
    },
    lost(reason) {
      const ends = [...open.values()]
      open.clear()
      for (const { end } of ends) end.over(reason.reason === 'closed' ? undefined : reason)
    },
    paused: () => full.size > 0,
  }
}

function makeStream(
  procedure: string,
  transport: Transport,
  pause: (end: StreamEnd, on: boolean) => void,
): { stream: ByteStream; end: StreamEnd } {
  let serial = 0
  let number = 0
  const queue: Buffer[] = []
  let held = 0
  /** the daemon has no more */
  let eof = false
  let asked: 'finish' | 'abort' | undefined
  /** nothing more is sent or comes; `error` is thrown to the reader after what is held, once */
  let over: { error?: Error } | undefined
  let failure: Error | undefined
  const reading: (() => void)[] = []
  const { promise: ended, resolve: tellEnded } = Promise.withResolvers<void>()

  const send = (status: number, bytes: Uint8Array, written?: () => void): void => {
    const writer = startFrame().raw(bytes)
    transport.write(
      finishFrame(writer, { program: PROGRAM, procedure: number, type: Type.stream, serial, status }),
      written,
    )
  }
  const wake = (): void => {
    for (const w of reading.splice(0)) w()
  }
  const NOTHING = Buffer.alloc(0)
  const drop = (): void => {
    queue.length = 0
    held = 0
    pause(end, false)
  }

  const end: StreamEnd = {
    procedure,
    begun(s, n) {
      serial = s
      number = n
    },
    data(bytes) {
      if (eof) throw new XdrError(`more of stream ${serial} after its end.`)
      if (bytes.length === 0) eof = true
      // what was on its way when it was given up
      else if (asked !== 'abort') {
        queue.push(bytes)
        held += bytes.length
        if (held > HELD_MOST && asked === undefined) pause(end, true)
      }
      wake()
    },
    over(error) {
      if (over) return
      over = error ? { error } : {}
      failure = error
      pause(end, false)
      tellEnded()
      wake()
    },
    asked: () => asked,
    giveUp() {
      if (!over) void abort()
    },
  }

  async function abort(): Promise<void> {
    if (over) return
    if (asked !== 'abort') {
      asked = 'abort'
      drop()
      send(Status.error, NOTHING)
      wake()
    }
    await within(ABORT_MS, ended)
  }

  const stream: ByteStream = {
    async write(data) {
      if (failure) throw failure
      if (over || asked) throw new TypeError(`The stream of ${procedure} is over; nothing more can be written to it.`)
      let written: Promise<void> = Promise.resolve()
      for (let at = 0; at < data.length; at += CHUNK) {
        written = new Promise((resolve) => send(Status.continue, data.subarray(at, at + CHUNK), resolve))
      }
      await Promise.race([written, ended])
      if (failure) throw failure
    },
    async finish(o = {}) {
      if (!over && asked === undefined) {
        asked = 'finish'
        pause(end, false)
        send(Status.ok, NOTHING)
      }
      const ms = o.deadline_ms ?? FINISH_MS
      if (!over && !(await within(ms, ended))) throw new DeadlineError(procedure, ms, true)
      if (failure) throw failure
    },
    abort,
    [Symbol.asyncDispose]: abort,
    [Symbol.asyncIterator]: () => ({
      async next() {
        for (;;) {
          const bytes = queue.shift()
          if (bytes) {
            held -= bytes.length
            if (held < HELD_AGAIN) pause(end, false)
            return { done: false, value: bytes }
          }
          if (over?.error) {
            const { error } = over
            over = {}
            throw error
          }
          if (over || eof || asked === 'abort') return { done: true, value: undefined }
          await new Promise<void>((resolve) => reading.push(resolve))
        }
      },
    }),
  }
  return { stream, end }
}

/** @returns whether it came within so many ms */
async function within(ms: number, it: Promise<void>): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(false), ms)
  })
  try {
    return await Promise.race([it.then(() => true), late])
  } finally {
    clearTimeout(timer)
  }
}
