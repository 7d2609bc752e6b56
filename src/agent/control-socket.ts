/**
 * The control socket, in the protocol of the hyper2kvm daemon (contract A6): a client connects, sends one JSON object
 * `{"command":"status"}` or a bare word, without any framing, and gets one JSON object back. So a request is complete when it
 * parses, or is a known word, or when its sender ends its side or falls quiet.
 *
 * That daemon's client reads its reply with a single recv(4096). It sends no newline; ours does, which is how a client
 * says that it reads to the end. Replies for the others are kept below 4096 bytes.
 */
import { chmodSync, renameSync, rmSync, symlinkSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { AgentError } from './errors.ts'
import { type Peer, peerOf } from './peer.ts'
import { MAX_SOCKET_PATH } from './runtime-dir.ts'

/** what the old client's only recv() takes */
export const OLD_CLIENT_BYTES = 4096

export interface ControlRequest {
  command: string
  [more: string]: unknown
}

export type ControlReply = { status: 'ok' | 'error'; [more: string]: unknown }

export interface ControlCommand {
  /** it is told who asked: onChange */
  changes?: boolean
  run(request: ControlRequest): ControlReply | Promise<ControlReply>
  /** a shorter reply for a client that reads 4096 bytes and no more */
  shorten?(reply: ControlReply, bytes: number): ControlReply
  /** called once the reply is on its way: for what would cut it off */
  after?(): void
}

export interface ControlSocketOptions {
  /** the folder of the socket; ours alone */
  dir: string
  /** where clients look: a link to the socket is put here */
  link: string
  commands: ReadonlyMap<string, ControlCommand>
  onRequest?: (command: string) => void
  /** before a command that changes something is run */
  onChange?: (command: string, peer: Peer | undefined) => void
  onError?: (error: unknown) => void
  /** a silent or slow client is cut off after this */
  timeoutMs?: number
  /** a bare word that is no known command counts as complete after this much silence */
  quietMs?: number
  maxRequestBytes?: number
}

export interface ControlSocket {
  path: string
  close(): Promise<void>
}

type Parsed = { state: 'complete'; request: ControlRequest } | { state: 'maybe' } | { state: 'bad'; message: string }

/** @param atEnd nothing more will come */
export function parseRequest(text: string, known: (word: string) => boolean, atEnd: boolean): Parsed {
  const t = text.trim()
  if (t === '') return atEnd ? { state: 'bad', message: 'The request is empty.' } : { state: 'maybe' }
  if (t.startsWith('{') || t.startsWith('[') || t.startsWith('"')) {
    let value: unknown
    try {
      value = JSON.parse(t)
    } catch (e) {
      return atEnd ? { state: 'bad', message: `Invalid JSON: ${(e as Error).message}` } : { state: 'maybe' }
    }
    if (typeof value === 'string') return { state: 'complete', request: { command: value } }
    const command = typeof value === 'object' && value !== null ? (value as { command?: unknown }).command : undefined
    if (typeof command !== 'string') {
      return { state: 'bad', message: 'The request has no "command". Send for example {"command":"status"}.' }
    }
    return { state: 'complete', request: value as ControlRequest }
  }
  // No command is the beginning of another, so a known word is a whole one.
  if (known(t) || atEnd || /\n/.test(text)) return { state: 'complete', request: { command: t } }
  return { state: 'maybe' }
}

/** @throws {AgentError} 73 when the socket cannot be made */
export async function openControlSocket(o: ControlSocketOptions): Promise<ControlSocket> {
  const path = join(o.dir, 'control.sock')
  if (Buffer.byteLength(path) > MAX_SOCKET_PATH) {
    throw new AgentError(
      `The path of the control socket has ${Buffer.byteLength(path)} bytes and may have ${MAX_SOCKET_PATH}: ${path}. Set XDG_RUNTIME_DIR to a shorter one.`,
      73,
    )
  }
  const open = new Set<Socket>()
  const server = createServer({ allowHalfOpen: true }, (c) => {
    open.add(c)
    c.once('close', () => open.delete(c))
    serve(c, o)
  })
  server.maxConnections = 256
  server.unref()
  // Bound aside, opened to the group, and only then moved to its name: nobody ever meets a closed door or wrong modes.
  const aside = join(o.dir, `.control-${process.pid}.sock`)
  rmSync(aside, { force: true })
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(aside, () => {
        server.off('error', reject)
        resolve()
      })
    })
    chmodSync(aside, 0o660)
    renameSync(aside, path)
    if (o.link !== path) replaceLink(path, o.link)
  } catch (e) {
    server.close()
    throw new AgentError(`The control socket ${path} could not be made: ${(e as Error).message}.`, 73, { cause: e })
  }
  server.on('error', (e) => o.onError?.(e))
  return {
    path,
    async close() {
      // Only while we hold the instance's lock: afterwards it is the next agent's.
      rmSync(path, { force: true })
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      const patience = setTimeout(() => {
        for (const c of open) c.destroy()
      }, 1000)
      for (const c of open) if (c.bytesRead === 0) c.destroy()
      await closed
      clearTimeout(patience)
    },
  }
}

function replaceLink(target: string, link: string): void {
  const temp = `${link}.${process.pid}.tmp`
  rmSync(temp, { force: true })
  symlinkSync(target, temp)
  renameSync(temp, link)
}

function serve(c: Socket, o: ControlSocketOptions): void {
  const max = o.maxRequestBytes ?? 65_536
  let text = ''
  let bytes = 0
  let answered = false
  let quiet: NodeJS.Timeout | undefined
  const deadline = setTimeout(() => {
    if (answered) c.destroy()
    else finish({ status: 'error', message: 'No complete request came in time.' })
  }, o.timeoutMs ?? 10_000)
  c.setEncoding('utf8')
  c.on('error', () => c.destroy())
  c.on('close', () => {
    clearTimeout(deadline)
    clearTimeout(quiet)
  })

  function finish(reply: ControlReply, after?: () => void): void {
    answered = true
    clearTimeout(quiet)
    deadline.refresh() // a slow reader gets the same time again
    c.end(`${JSON.stringify(reply)}\n`, after)
  }

  function look(atEnd: boolean): void {
    if (answered) return
    const p = parseRequest(text, (w) => o.commands.has(w), atEnd)
    if (p.state === 'bad') finish({ status: 'error', message: p.message, available_commands: [...o.commands.keys()] })
    else if (p.state === 'complete') {
      answered = true
      void run(p.request)
    } else if (!text.trimStart().startsWith('{')) {
      clearTimeout(quiet)
      quiet = setTimeout(() => look(true), o.quietMs ?? 250)
    }
  }

  async function run(request: ControlRequest): Promise<void> {
    const name = request.command.trim()
    const command = o.commands.get(name)
    if (!command) {
      o.onRequest?.('unknown')
      finish({ status: 'error', message: `Unknown command: ${name}`, available_commands: [...o.commands.keys()] })
      return
    }
    o.onRequest?.(name)
    if (command.changes && o.onChange) o.onChange(name, await peerOf(c))
    try {
      let reply = await command.run(request)
      const old = !text.endsWith('\n')
      if (old && command.shorten && Buffer.byteLength(JSON.stringify(reply)) >= OLD_CLIENT_BYTES - 1) {
        reply = command.shorten(reply, OLD_CLIENT_BYTES - 1)
      }
      finish(reply, command.after)
    } catch (e) {
      o.onError?.(e)
      finish({ status: 'error', message: e instanceof Error ? e.message : String(e) })
    }
  }

  c.on('data', (chunk: string) => {
    if (answered) return
    bytes += Buffer.byteLength(chunk)
    if (bytes > max) {
      finish({ status: 'error', message: `The request is larger than ${max} bytes.` })
      return
    }
    text += chunk
    look(false)
  })
  c.on('end', () => {
    if (!answered) look(true)
  })
}
