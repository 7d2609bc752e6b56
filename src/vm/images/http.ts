/** One GET over HTTP or HTTPS, through redirects and the proxies of the environment, broken off when nothing comes any more. */
import type { Agent as HttpAgent, IncomingHttpHeaders, IncomingMessage } from 'node:http'
import { VmError } from '../types.ts'
import { codeOf } from './files.ts'
import { shown } from './names.ts'

const MAX_REDIRECTS = 10

export interface Reply {
  status: number
  headers: IncomingHttpHeaders
  /** pieces of the body. @throws {Interrupted}, the signal's reason */
  pieces(): AsyncIterable<Buffer>
  /** breaks the connection off; may be called at any time */
  close(): void
}

/** The transfer stopped in the middle; the same again may help, soon. */
export class Interrupted extends Error {
  readonly retry_after_ms: number | undefined
  constructor(message: string, o: { retry_after_ms?: number; cause?: unknown } = {}) {
    super(message, { cause: o.cause })
    this.name = 'Interrupted'
    this.retry_after_ms = o.retry_after_ms
  }
}

export interface GetOptions {
  headers: Record<string, string>
  signal: AbortSignal
  no_progress_ms: number
  /** false: the content is known by its checksum, so a redirect may lead from https to http */
  secure: boolean
}

/** @throws {Interrupted}; {VmError} image-download; the signal's reason */
export async function get(url: string, o: GetOptions): Promise<Reply> {
  const first = URL.parse(url)
  if (!first || !/^https?:$/.test(first.protocol))
    throw failed(`${JSON.stringify(url.replace(/\/\/[^/]*@/, '//'))} is no http or https address`)
  let at = first
  for (let hops = 0; hops <= MAX_REDIRECTS; hops++) {
    const reply = await one(at, o)
    if (![301, 302, 303, 307, 308].includes(reply.status)) return reply
    reply.close()
    const next = URL.parse(reply.headers.location ?? '', at.href)
    if (!next || !/^https?:$/.test(next.protocol))
      throw failed(
        `${shown(at.href)} redirects to ${JSON.stringify(reply.headers.location ?? '')}, which is no http or https address`,
      )
    if (o.secure && at.protocol === 'https:' && next.protocol === 'http:')
      throw failed(
        `${shown(at.href)} redirects from https to ${shown(next.href)}, where anybody on the way could change the image`,
        'Give the template a checksum: then it does not matter where the image comes from.',
      )
    at = next
  }
  throw failed(`${shown(url)} redirects more than ${MAX_REDIRECTS} times`)
}

export function failed(what: string, hint = 'Check the address of the template.', transient = false): VmError {
  return new VmError(`The image could not be downloaded: ${what}.`, { code: 'image-download', hint, transient })
}

async function one(url: URL, o: GetOptions): Promise<Reply> {
  const { Agent, request } = await (url.protocol === 'https:' ? import('node:https') : import('node:http'))
  // proxyEnv: HTTPS_PROXY, HTTP_PROXY, NO_PROXY
  const agent = new Agent({ keepAlive: false, proxyEnv: process.env } as never) as HttpAgent
  o.signal.throwIfAborted()
  const stop = new AbortController()
  const aborted = (): void => stop.abort(o.signal.reason)
  o.signal.addEventListener('abort', aborted, { once: true })
  const watch = watchdog(o.no_progress_ms, () =>
    stop.abort(new Interrupted(`${url.host} has sent nothing for ${Math.round(o.no_progress_ms / 1000)} s`)),
  )
  const close = (): void => {
    watch.stop()
    o.signal.removeEventListener('abort', aborted)
    agent.destroy()
  }
  const why = (e: unknown): unknown =>
    o.signal.aborted ? o.signal.reason : stop.signal.aborted ? stop.signal.reason : explained(e, url)
  try {
    watch.start()
    const res = await new Promise<IncomingMessage>((resolve, reject) => {
      const req = request(url, {
        agent,
        signal: stop.signal,
        headers: { 'User-Agent': 'vmspool', Accept: '*/*', 'Accept-Encoding': 'identity', ...o.headers },
      })
      req.once('response', resolve)
      req.once('error', reject)
      req.end()
    })
    watch.stop()
    res.on('error', () => {}) // whoever reads is told
    return {
      status: res.statusCode ?? 0,
      headers: res.headers,
      close: () => {
        close()
        res.destroy()
      },
      pieces: () => pieces(res, watch, why, close),
    }
  } catch (e) {
    close()
    throw why(e)
  }
}

/** The clock runs only while we wait for the server: a slow disk of ours is not its fault. */
async function* pieces(
  res: IncomingMessage,
  watch: Watchdog,
  why: (e: unknown) => unknown,
  close: () => void,
): AsyncGenerator<Buffer> {
  const all = res[Symbol.asyncIterator]()
  try {
    for (;;) {
      watch.start()
      const next = await all.next().catch((e) => {
        throw why(e)
      })
      watch.stop()
      if (next.done) break
      yield next.value as Buffer
    }
    if (!res.complete) throw why(new Error('the connection was closed in the middle'))
  } finally {
    close()
    res.destroy()
  }
}

interface Watchdog {
  start(): void
  stop(): void
}

function watchdog(ms: number, bark: () => void): Watchdog {
  let timer: NodeJS.Timeout | undefined
  return {
    start: () => {
      clearTimeout(timer)
      timer = setTimeout(bark, ms)
    },
    stop: () => clearTimeout(timer),
  }
}

function explained(e: unknown, url: URL): unknown {
  const code = codeOf(e)
  const text = e instanceof Error ? e.message : String(e)
  if (code === 'ENOTFOUND')
    return new Interrupted(`the name ${url.hostname} is not known to the resolver`, { cause: e })
  if (code === 'ECONNREFUSED') return new Interrupted(`${url.host} refuses connections`, { cause: e })
  if (code === 'ECONNRESET' || text === 'aborted')
    return new Interrupted(`${url.host} closed the connection in the middle`, { cause: e })
  if (code?.startsWith('ERR_TLS') || /CERT|SELF_SIGNED|UNABLE_TO_VERIFY/.test(code ?? ''))
    return new VmError(`The image could not be downloaded: the certificate of ${url.host} is not trusted (${code}).`, {
      code: 'image-download',
      hint: 'Install the authority that signed it (NODE_EXTRA_CA_CERTS), or correct the clock of this host.',
      cause: e,
    })
  return new Interrupted(`${url.host}: ${text}`, { cause: e })
}

/** Retry-After in ms: seconds or a date. */
export function retryAfter(value: string | undefined): number | undefined {
  if (value === undefined) return undefined
  const ms = /^\d{1,9}$/.test(value.trim()) ? Number(value) * 1000 : Date.parse(value) - Date.now()
  return Number.isFinite(ms) && ms >= 0 ? ms : undefined
}
