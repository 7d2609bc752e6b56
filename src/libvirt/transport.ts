/** A byte stream to a daemon: a Unix socket, or the standard input and output of ssh. */
import { spawn } from 'node:child_process'
import { connect as connectSocket } from 'node:net'
import { ConnectionError } from './errors.ts'
import type { Target } from './uri.ts'

export interface Transport {
  /** for messages: what this leads to */
  where: string
  /** `written` is called once the system has taken them, or never will */
  write(bytes: Buffer, written?: () => void): void
  /** While it is paused, nothing arrives, not even the end. */
  pause(paused: boolean): void
  /** Called with what arrives, and once at the end with what ended it (undefined: the other side closed it). Set it at once. */
  listen(o: { data: (chunk: Buffer) => void; end: (why: string | undefined) => void }): void
  /** Ends it now; nothing is called afterwards. */
  destroy(): void
}

const say = (e: Error): string => e.message

/** @throws ConnectionError `unreachable` */
export function openTransport(target: Target, signal: AbortSignal): Promise<Transport> {
  return target.transport === 'unix' ? openSocket(target.socket, signal) : openSsh(target.argv, signal)
}

const HINTS: Readonly<Record<string, string>> = {
  ENOENT: 'No libvirt daemon has made this socket; is libvirtd (or virtqemud) running?',
  ECONNREFUSED: 'The socket is left over from a daemon that has ended; start libvirtd (or virtqemud).',
  EACCES: 'You may not use this socket; on Debian, members of the group libvirt may.',
}

function openSocket(path: string, signal: AbortSignal): Promise<Transport> {
  return new Promise((resolve, reject) => {
    const socket = connectSocket(path)
    const failed = (why: string, cause?: unknown) => {
      socket.destroy()
      reject(new ConnectionError('unreachable', `libvirt's socket ${path} cannot be opened: ${why}`, { cause }))
    }
    const aborted = () => failed(String(signal.reason?.message ?? signal.reason), signal.reason)
    if (signal.aborted) return aborted()
    signal.addEventListener('abort', aborted, { once: true })
    let ended: (why: string | undefined) => void = () => {}
    socket.once('error', (e: NodeJS.ErrnoException) => failed(HINTS[e.code ?? ''] ?? say(e), e))
    socket.once('connect', () => {
      signal.removeEventListener('abort', aborted)
      socket.removeAllListeners('error')
      let why: string | undefined
      socket.on('error', (e) => {
        why = say(e)
      })
      socket.on('close', () => ended(why))
      resolve({
        where: path,
        write: (bytes, written) => void socket.write(bytes, written && (() => written())),
        pause: (paused) => void (paused ? socket.pause() : socket.resume()),
        listen(o) {
          ended = o.end
          socket.on('data', o.data)
        },
        destroy() {
          ended = () => {}
          socket.removeAllListeners('data')
          socket.destroy()
        },
      })
    })
  })
}

/** what of ssh's complaints is kept */
const STDERR_KEPT = 4096

function openSsh(argv: readonly [string, ...string[]], signal: AbortSignal): Promise<Transport> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) {
      return reject(new ConnectionError('unreachable', 'The connection was given up before ssh was started.'))
    }
    const child = spawn(argv[0], argv.slice(1), { stdio: ['pipe', 'pipe', 'pipe'] })
    const where = `${argv[0]} ${argv.at(-2)}`
    let ended: (why: string | undefined) => void = () => {}
    let complaints = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      complaints = (complaints + text).slice(-STDERR_KEPT)
    })
    child.stdin.on('error', () => {}) // EPIPE: its end says more
    child.once('error', (e) => {
      reject(new ConnectionError('unreachable', `${argv[0]} cannot be started: ${say(e)}`, { cause: e }))
      ended(say(e))
    })
    child.on('close', (code, by) => {
      const how = by ? `was ended by ${by}` : `ended with exit code ${code}`
      ended(`${argv[0]} ${how}${complaints.trim() === '' ? '' : `: ${complaints.trim()}`}`)
    })
    child.once('spawn', () =>
      resolve({
        where,
        write: (bytes, written) => void child.stdin.write(bytes, written && (() => written())),
        pause: (paused) => void (paused ? child.stdout.pause() : child.stdout.resume()),
        listen(o) {
          ended = o.end
          child.stdout.on('data', o.data)
        },
        destroy() {
          ended = () => {}
          child.stdout.removeAllListeners('data')
          for (const stream of [child.stdin, child.stdout, child.stderr]) stream.destroy()
          child.kill('SIGTERM')
        },
      }),
    )
  })
}
