/*
 * One conversation with one daemon. Calls go out in order, a few at a time, and are answered in any order; whatever cannot be
 * understood ends it. Once over it stays over: nothing is ever sent again, and every waiting caller is told.
 */
import { ConnectionError, DeadlineError, LibvirtError, XdrError } from './errors.ts'
import {
  FRAME_MAX,
  finishFrame,
  type FrameHeader,
  HEADER_BYTES,
  Keepalive,
  KEEPALIVE,
  PROGRAM,
  readHeader,
  splitFrames,
  startFrame,
  Status,
  Type,
  VERSION,
} from './frame.ts'
import type { Call, CallOptions, Procedure } from './procedure.ts'
import { events, type DomainEvent } from './procedures/events.ts'
import { type ByteStream, type StreamEnd, streamsOf } from './streams.ts'
import { readRemoteError } from './structs.ts'
import type { Transport } from './transport.ts'
import { XdrReader } from './xdr.ts'

export interface ChannelOptions {
  /** calls that may be under way at once. The daemon refuses to read more than 5 of one client (max_client_requests), pings included */
  window: number
  deadlines: { quick_ms: number; slow_ms: number }
}

export interface Channel {
  call: Call
  /** as `call`, but `now` runs before any later frame is looked at */
  callThen<A extends readonly unknown[], R>(
    p: Procedure<A, R>,
    args: A,
    now: (value: R) => void,
    o?: CallOptions,
  ): Promise<R>
  /** A call that opens a stream. Until the stream is over, it may pause the whole connection: use one for it alone. */
  stream<A extends readonly unknown[]>(p: Procedure<A, void>, args: A, o?: CallOptions): Promise<ByteStream>
  /** Where events go; the callback is the number that the daemon gave out. */
  onEvent(listener: (number: number, callback: number, event: DomainEvent) => void): void
  /** Pings an idle daemon every `interval_ms`, and gives it up when `misses` pings in a row brought nothing. */
  keepalive(interval_ms: number, misses: number): void
  /** From now on the daemon is known: large frames are taken. */
  established(): void
  /** resolves when it is over, with what ended it */
  ended: Promise<ConnectionError>
  isOver(): boolean
  /** waiting for their turn, under way, given up but not yet answered */
  load(): { queued: number; running: number; abandoned: number }
  end(reason: ConnectionError): void
}

interface Waiting {
  procedure: string
  number: number
  frame: Buffer
  settle(frame: Buffer, header: FrameHeader): void
  reject(error: unknown): void
  /** nobody waits for the answer any more */
  abandoned: boolean
  /** of a call that opens a stream: its data may come before its answer */
  stream?: StreamEnd
}

/** frames before the connection is open are a few words; a stranger on the socket gets no more memory than this */
const HANDSHAKE_MAX = 256 * 1024
const SERIAL_MAX = 0xffff_ffff

const eventsByNumber = new Map(events.map((e) => [e.number, e]))

export function openChannel(transport: Transport, o: ChannelOptions): Channel {
  const queue: Waiting[] = []
  const running = new Map<number, Waiting>()
  const splitter = splitFrames(HANDSHAKE_MAX)
  let abandoned = 0
  let serial = 0
  let over: ConnectionError | undefined
  let deliver: (number: number, callback: number, event: DomainEvent) => void = () => {}
  let pinging: NodeJS.Timeout | undefined
  let unanswered = 0
  const { promise: ended, resolve: tellEnded } = Promise.withResolvers<ConnectionError>()

  const end = (reason: ConnectionError): void => {
    if (over) return
    over = reason
    clearInterval(pinging)
    transport.destroy()
    // each gets an error of its own: whether its call was sent differs
    for (const w of running.values()) w.reject(lost(reason, w.procedure, true))
    for (const w of queue) w.reject(lost(reason, w.procedure, false))
    streams.lost(reason)
    running.clear()
    queue.length = 0
    tellEnded(reason)
  }
  const violation = (why: string, cause?: unknown): void =>
    end(
      new ConnectionError(
        'protocol',
        `The connection to ${transport.where} was closed, for libvirt sent what this client does not know: ${why}`,
        { cause },
      ),
    )

  const pump = (): void => {
    while (queue.length > 0 && running.size < o.window && !over) {
      const w = queue.shift()!
      serial = serial === SERIAL_MAX ? 1 : serial + 1
      w.frame.writeUInt32BE(serial, 20)
      running.set(serial, w)
      if (w.stream) streams.begin(serial, w.number, w.stream)
      transport.write(w.frame)
    }
    if (!over && queue.length > 0 && abandoned >= o.window) {
      end(
        new ConnectionError(
          'unresponsive',
          `libvirt at ${transport.where} has left ${abandoned} calls unanswered beyond their deadlines, and no more may be sent on this connection.`,
        ),
      )
    }
  }

  /** Takes it out of the queue, or marks that its answer will be dropped. @returns whether it had been sent */
  const giveUp = (w: Waiting): boolean => {
    const at = queue.indexOf(w)
    if (at !== -1) {
      queue.splice(at, 1)
      return false
    }
    if (!w.abandoned) {
      w.abandoned = true
      abandoned++
    }
    pump()
    return true
  }

  const streams = streamsOf(transport)
  const callThen: Channel['callThen'] = (p, args, now, options = {}) => ask(p, args, now, options)
  const ask = <A extends readonly unknown[], R>(
    p: Procedure<A, R>,
    args: A,
    now: (value: R) => void,
    options: CallOptions,
    stream?: StreamEnd,
  ): Promise<R> =>
    new Promise((resolve, reject) => {
      if (over) return reject(lost(over, p.name, false))
      const { signal } = options
      if (signal?.aborted) return reject(signal.reason)
      const writer = startFrame()
      p.write(writer, ...args)
      const deadline = options.deadline_ms ?? (p.slow ? o.deadlines.slow_ms : o.deadlines.quick_ms)
      let timer: NodeJS.Timeout | undefined
      const done = () => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', aborted)
      }
      const w: Waiting = {
        procedure: p.name,
        number: p.number,
        frame: finishFrame(writer, { program: PROGRAM, procedure: p.number, type: Type.call, serial: 0 }),
        abandoned: false,
        ...(stream ? { stream } : {}),
        settle(frame, header) {
          if (header.status === Status.error) {
            const reader = new XdrReader(frame, HEADER_BYTES)
            const error = readRemoteError(reader)
            reader.end()
            done()
            reject(new LibvirtError(p.name, error))
          } else {
            const reader = new XdrReader(frame, HEADER_BYTES)
            const value = p.read(reader)
            reader.end()
            done()
            now(value)
            resolve(value)
          }
        },
        reject(error) {
          done()
          reject(error)
        },
      }
      const aborted = () => {
        giveUp(w)
        w.reject(signal!.reason)
      }
      signal?.addEventListener('abort', aborted, { once: true })
      if (deadline > 0) {
        timer = setTimeout(() => {
          // after this process itself stood still, the answer may be there already: read before judging
          setImmediate(() => {
            if (w.abandoned || over || (!queue.includes(w) && ![...running.values()].includes(w))) return
            w.reject(new DeadlineError(p.name, deadline, giveUp(w)))
          })
        }, deadline)
      }
      queue.push(w)
      pump()
    })

  const reply = (frame: Buffer, h: FrameHeader): void => {
    const w = running.get(h.serial)
    if (!w) throw new XdrError(`an answer to call ${h.serial}, which is not waiting for one.`)
    if (w.number !== h.procedure) {
      throw new XdrError(`an answer of procedure ${h.procedure} to call ${h.serial}, which was ${w.procedure}.`)
    }
    if (h.status !== Status.ok && h.status !== Status.error) throw new XdrError(`an answer with status ${h.status}.`)
    if (w.stream && h.status === Status.error) streams.refused(h.serial)
    if (w.abandoned) {
      running.delete(h.serial)
      abandoned--
      w.stream?.giveUp()
    } else {
      // it stays in `running` while it is read: if that fails, its caller is told as well
      w.settle(frame, h)
      running.delete(h.serial)
    }
    pump()
  }

  const message = (frame: Buffer, h: FrameHeader): void => {
    const kind = eventsByNumber.get(h.procedure)
    // their serial is 1, whatever virnetprotocol.x says
    if (!kind || h.status !== Status.ok) {
      throw new XdrError(`a message of procedure ${h.procedure} with status ${h.status}.`)
    }
    const reader = new XdrReader(frame, HEADER_BYTES)
    const { callback, event } = kind.read(reader)
    reader.end()
    deliver(h.procedure, callback, event)
  }

  const sendKeepalive = (procedure: number): void =>
    transport.write(finishFrame(startFrame(), { program: KEEPALIVE, procedure, type: Type.message, serial: 0 }))

  const take = (frame: Buffer): void => {
    const h = readHeader(frame)
    if (h.version !== VERSION) throw new XdrError(`version ${h.version} of program 0x${h.program.toString(16)}.`)
    if (h.program === KEEPALIVE) {
      if (h.type !== Type.message || h.status !== Status.ok || frame.length !== HEADER_BYTES) {
        throw new XdrError('a keepalive that is none.')
      }
      if (h.procedure === Keepalive.ping) sendKeepalive(Keepalive.pong)
      else if (h.procedure !== Keepalive.pong) throw new XdrError(`procedure ${h.procedure} of the keepalive program.`)
      return
    }
    if (h.program !== PROGRAM) throw new XdrError(`program 0x${h.program.toString(16)}.`)
    if (h.type === Type.reply) reply(frame, h)
    else if (h.type === Type.message) message(frame, h)
    else if (h.type === Type.stream) streams.take(frame, h)
    // holes in streams and passed file descriptors are only sent to who asked for them
    else throw new XdrError(`a frame of type ${h.type}.`)
  }

  transport.listen({
    data(chunk) {
      unanswered = 0
      try {
        for (const frame of splitter.push(chunk)) {
          if (over) return
          take(frame)
        }
      } catch (error) {
        violation(error instanceof Error ? error.message : String(error), error)
      }
    },
    end(why) {
      end(
        new ConnectionError(
          'lost',
          `The connection to libvirt at ${transport.where} was lost: ${why ?? 'the daemon closed it, as it does when it ends or has too many clients.'}`,
        ),
      )
    },
  })

  return {
    call: (p, args, options) => callThen(p, args, () => {}, options),
    callThen,
    async stream(p, args, options = {}) {
      const stream = streams.make(p.name)
      await ask(p, args, () => {}, options, stream.end)
      return stream.stream
    },
    onEvent(listener) {
      deliver = listener
    },
    keepalive(interval_ms, misses) {
      // counted, not timed: when this process stood still for a while, only one turn passes, and what arrived is read before the next
      pinging = setInterval(() => {
        // what we do not read cannot be an answer; but the daemon hears that we are there
        if (streams.paused()) unanswered = 0
        if (unanswered >= misses) {
          end(
            new ConnectionError(
              'unresponsive',
              `libvirt at ${transport.where} has not answered ${misses} pings, one every ${interval_ms} ms; it is frozen or overloaded.`,
            ),
          )
          return
        }
        unanswered++
        sendKeepalive(Keepalive.ping)
      }, interval_ms)
      pinging.unref()
    },
    established: () => splitter.limit(FRAME_MAX),
    ended,
    isOver: () => over !== undefined,
    load: () => ({ queued: queue.length, running: running.size - abandoned, abandoned }),
    end,
  }
}

function lost(reason: ConnectionError, procedure: string, sent: boolean): ConnectionError {
  const then = sent
    ? `${procedure} had been sent; whether it was carried out is not known.`
    : `${procedure} was not sent.`
  return new ConnectionError(reason.reason, `${reason.message} ${then}`, { sent, cause: reason })
}
