// A real HTTP server on loopback that can be as bad as servers are, and remembers what it was asked.
import { createHash, randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'

/** How the next replies are; `times` limits it to so many. */
export interface Behaviour {
  body: Buffer
  etag?: string
  last_modified?: string
  /** false: the whole file whatever is asked for */
  ranges?: boolean
  /** break the connection off after so many bytes of a reply */
  cut?: number
  /** say nothing more after so many bytes of a reply */
  hang?: number
  /** … until this */
  hang_until?: Promise<void>
  /** bytes a piece and ms between them */
  drip?: { bytes: number; ms: number }
  /** how the body is delimited; `close`: by the end of the connection */
  length?: 'length' | 'chunked' | 'close'
  /** more headers, of all replies */
  headers?: Record<string, string>
  status?: number
  /** path → where it leads */
  redirects?: Record<string, string>
  /** ask nothing about If-Range: a broken cache on the way */
  ignore_if_range?: boolean
  /** how all replies after the next one are: whoever is quick to ask again gets no second one of this kind */
  after?: Behaviour
}

export interface ImageServer extends AsyncDisposable {
  url: string
  port: number
  behave: Behaviour
  requests: { method: string; url: string; headers: IncomingHttpHeaders }[]
  /** bytes of bodies that were handed to the kernel */
  sent: number
}

/** A raw disk with a boot sector and nothing that could be compressed. */
export function rawDisk(bytes: number): Buffer {
  const disk = randomBytes(bytes)
  disk.writeUInt16LE(0xaa55, 510)
  return disk
}

/** Compares hashes: a runner that prints how two megabytes differ takes minutes for it. */
export async function expectFile(path: string, content: Buffer): Promise<void> {
  const sha256 = (b: Buffer): string => createHash('sha256').update(b).digest('hex')
  expect(sha256(await readFile(path))).toBe(sha256(content))
}

export async function imageServer(behave: Behaviour): Promise<ImageServer> {
  const server = createServer((req, res) => {
    s.requests.push({ method: req.method ?? '', url: req.url ?? '', headers: req.headers })
    reply(s, req.url ?? '/', req.headers, res).catch(() => res.destroy())
  })
  server.listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const { port } = server.address() as AddressInfo
  const s: ImageServer = {
    url: `http://127.0.0.1:${port}/disk.img`,
    port,
    behave,
    requests: [],
    sent: 0,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
  return s
}

function writable(res: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      res.off('drain', done).off('close', done)
      resolve()
    }
    res.on('drain', done).on('close', done)
  })
}

async function reply(s: ImageServer, path: string, asked: IncomingHttpHeaders, res: ServerResponse): Promise<void> {
  const b = s.behave
  if (b.after) s.behave = b.after
  for (const [name, value] of Object.entries(b.headers ?? {})) res.setHeader(name, value)
  const to = b.redirects?.[path]
  if (to !== undefined) {
    res.writeHead(302, { location: to }).end('moved')
    return
  }
  if (b.status !== undefined) {
    res.writeHead(b.status).end('no')
    return
  }
  if (b.etag !== undefined) res.setHeader('etag', b.etag)
  if (b.last_modified !== undefined) res.setHeader('last-modified', b.last_modified)
  if (b.etag !== undefined && asked['if-none-match'] === b.etag) {
    res.writeHead(304).end()
    return
  }
  const from = Number(/^bytes=(\d+)-$/.exec(asked.range ?? '')?.[1] ?? Number.NaN)
  const same =
    asked['if-range'] === undefined ||
    b.ignore_if_range ||
    [b.etag, b.last_modified].includes(String(asked['if-range']))
  const partial = b.ranges !== false && Number.isInteger(from) && same
  const size = b.body.length
  if (partial && from >= size) {
    res.writeHead(416, { 'content-range': `bytes */${size}` }).end()
    return
  }
  const body = partial ? b.body.subarray(from) : b.body
  if (partial) {
    res.statusCode = 206
    if (!res.hasHeader('content-range')) res.setHeader('content-range', `bytes ${from}-${size - 1}/${size}`)
  }
  if ((b.length ?? 'length') === 'length' && !res.hasHeader('content-length'))
    res.setHeader('content-length', body.length)
  if (b.length === 'close') {
    res.removeHeader('transfer-encoding')
    res.useChunkedEncodingByDefault = false
    res.setHeader('connection', 'close')
  }
  const limit = Math.min(b.cut ?? body.length, b.hang ?? body.length)
  const step = b.drip?.bytes ?? 64 * 1024
  const send = async (start: number, end: number): Promise<void> => {
    for (let at = start; at < end && !res.destroyed; at += step) {
      const piece = body.subarray(at, Math.min(at + step, end))
      s.sent += piece.length
      if (!res.write(piece)) await writable(res)
      if (b.drip) await sleep(b.drip.ms)
    }
  }
  res.flushHeaders()
  await send(0, Math.min(limit, body.length))
  if (b.hang_until) {
    await b.hang_until
    await send(limit, body.length)
  }
  if (limit >= body.length || b.hang_until) res.end()
  else if (b.cut !== undefined && limit === b.cut) res.destroy()
  // else it hangs until the connection is closed by somebody
}
