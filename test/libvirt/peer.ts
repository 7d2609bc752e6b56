// Something on the other end that says what a test likes: the beginning of it is what the real daemon said (captured.json).
import { createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { KEEPALIVE, PROGRAM, readHeader, splitFrames } from '../../src/libvirt/frame.ts'
import { tempDir } from '../support/temp.ts'
import { captured, procedures } from './captured.ts'

export const all = captured()
export const bytes = (hex: string) => Buffer.from(hex, 'hex')
/** a captured answer, as one to the call `serial` */
const answer = (name: string, serial: number) => {
  const reply = bytes(all.calls[name]!.reply)
  reply.writeUInt32BE(serial, 20)
  return reply
}
const nameOf = new Map(procedures.map((p) => [p.number, p.name]))
const HANDSHAKE = ['AUTH_LIST', 'CONNECT_SUPPORTS_FEATURE', 'CONNECT_OPEN', 'CONNECT_CLOSE']

interface Frame {
  length?: number
  program?: number
  version?: number
  procedure?: number
  type?: number
  serial?: number
  status?: number
  payload?: Buffer
}
export const frame = (f: Frame): Buffer => {
  const payload = f.payload ?? Buffer.alloc(0)
  const b = Buffer.alloc(28 + payload.length)
  b.writeUInt32BE(f.length ?? b.length, 0)
  b.writeUInt32BE(f.program ?? PROGRAM, 4)
  b.writeUInt32BE(f.version ?? 1, 8)
  b.writeInt32BE(f.procedure ?? 157, 12)
  b.writeUInt32BE(f.type ?? 1, 16)
  b.writeUInt32BE(f.serial ?? 0, 20)
  b.writeUInt32BE(f.status ?? 0, 24)
  payload.copy(b, 28)
  return b
}

interface Peer extends AsyncDisposable {
  uri: string
  /** frames that came from the client */
  heard: Buffer[]
}
/** Answers the handshake as libvirtd did, and everything else by `say`. */
export async function peer(say: (call: Buffer, serial: number, socket: Socket) => void, greet?: Buffer): Promise<Peer> {
  const dir = await tempDir()
  const heard: Buffer[] = []
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    if (greet) socket.write(greet)
    const splitter = splitFrames()
    socket.on('data', (d: Buffer) => {
      for (const f of splitter.push(d)) {
        heard.push(Buffer.from(f))
        const h = readHeader(f)
        if (h.program === KEEPALIVE) continue
        const name = nameOf.get(h.procedure)!
        if (!greet && HANDSHAKE.includes(name)) socket.write(answer(name, h.serial))
        else say(f, h.serial, socket)
      }
    })
  })
  const path = join(dir.path, 's')
  await new Promise<void>((resolve) => server.listen(path, resolve))
  return {
    uri: `test:///default?socket=${path}`,
    heard,
    async [Symbol.asyncDispose]() {
      for (const s of sockets) s.destroy()
      await new Promise((resolve) => server.close(resolve))
      await dir[Symbol.asyncDispose]()
    },
  }
}
