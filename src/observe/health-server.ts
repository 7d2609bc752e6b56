/**
 * `/health /ready /live /metrics` over HTTP, on a Unix socket and, when configured, on TCP (loopback unless an address says
 * otherwise). 200 or 503 with a JSON body that says why; /metrics is Prometheus text.
 */
import { chmodSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { isIPv6 } from 'node:net'

export interface HealthReport {
  /** ok: all well; degraded: works, but something repeats failing; failing: does not do its work */
  status: 'ok' | 'degraded' | 'failing'
  [more: string]: unknown
}

export interface HealthSource {
  health(): HealthReport | Promise<HealthReport>
  ready(): { ready: boolean; reason?: string }
  live(): { live: boolean; reason?: string }
  metrics(): Promise<{ text: string; type: string }>
}

export interface HealthServer {
  /** where it listens, as URLs or socket paths */
  addresses: string[]
  close(): Promise<void>
}

/** `host:port`, `[v6]:port`, `:port` or `port`; without a host it is 127.0.0.1. */
export function parseListen(text: string): { host: string; port: number } | undefined {
  const m = /^(?:(?:\[([^\]]+)\]|([^:[\]]*)):)?(\d{1,5})$/.exec(text.trim())
  if (!m) return undefined
  const port = Number(m[3])
  return port > 65_535 ? undefined : { host: m[1] || m[2] || '127.0.0.1', port }
}

async function answer(source: HealthSource, req: IncomingMessage, res: ServerResponse): Promise<void> {
  const json = (code: number, body: unknown): void => {
    res.writeHead(code, { 'content-type': 'application/json' })
    res.end(req.method === 'HEAD' ? undefined : `${JSON.stringify(body)}\n`)
  }
  if (req.method !== 'GET' && req.method !== 'HEAD') {
    res.setHeader('allow', 'GET, HEAD')
    json(405, { error: `The method ${req.method} is not supported here; use GET.` })
    return
  }
  switch ((req.url ?? '/').replace(/[?#].*$/, '')) {
    case '/health': {
      const h = await source.health()
      json(h.status === 'failing' ? 503 : 200, h)
      return
    }
    case '/ready': {
      const r = source.ready()
      json(r.ready ? 200 : 503, r)
      return
    }
    case '/live': {
      const l = source.live()
      json(l.live ? 200 : 503, l)
      return
    }
    case '/metrics': {
      const m = await source.metrics()
      res.writeHead(200, { 'content-type': m.type })
      res.end(req.method === 'HEAD' ? undefined : m.text)
      return
    }
    default:
      json(404, { error: 'There is nothing here; ask for /health, /ready, /live or /metrics.' })
  }
}

function makeServer(source: HealthSource): Server {
  const server = createServer(
    { keepAliveTimeout: 5000, requestTimeout: 10_000, headersTimeout: 10_000, maxHeaderSize: 8192 },
    (req, res) => {
      req.resume()
      answer(source, req, res).catch((e: unknown) => {
        if (!res.headersSent) res.writeHead(500, { 'content-type': 'application/json' })
        res.end(`${JSON.stringify({ error: e instanceof Error ? e.message : String(e) })}\n`)
      })
    },
  )
  server.maxConnections = 64
  server.unref()
  return server
}

function listen(server: Server, at: { path: string } | { host: string; port: number }): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(at, () => {
      server.off('error', reject)
      server.on('error', () => {})
      resolve()
    })
  })
}

/** @param o.socket a path that nobody else uses any more: a file there is replaced by the caller beforehand */
export async function startHealthServer(
  source: HealthSource,
  o: { socket?: string; listen?: string },
): Promise<HealthServer> {
  const servers: Server[] = []
  const addresses: string[] = []
  try {
    if (o.socket !== undefined) {
      const server = makeServer(source)
      await listen(server, { path: o.socket })
      chmodSync(o.socket, 0o660)
      servers.push(server)
      addresses.push(o.socket)
    }
    if (o.listen !== undefined && o.listen !== '') {
      const at = parseListen(o.listen)
      if (!at)
        throw new Error(
          `metrics.listen "${o.listen}" is not an address. Write host:port, [v6]:port or :port (loopback).`,
        )
      const server = makeServer(source)
      await listen(server, at)
      servers.push(server)
      const bound = server.address()
      const port = typeof bound === 'object' && bound !== null ? bound.port : at.port
      addresses.push(`http://${isIPv6(at.host) ? `[${at.host}]` : at.host}:${port}`)
    }
  } catch (e) {
    await Promise.all(servers.map(close))
    throw e
  }
  return {
    addresses,
    async close() {
      await Promise.all(servers.map(close))
    },
  }
}

function close(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve())
    server.closeAllConnections()
  })
}
