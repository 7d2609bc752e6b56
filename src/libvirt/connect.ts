import { type Channel, openChannel } from './channel.ts'
import { domainCalls } from './domains.ts'
import { ConnectionError, LibvirtError } from './errors.ts'
import { hostCalls } from './host.ts'
import { networkCalls } from './networks.ts'
import type { Call, CallOptions } from './procedure.ts'
import * as p from './procedures/host.ts'
import { poolCalls, volumeCalls } from './storage.ts'
import { type Subscribe, subscriptions } from './subscriptions.ts'
import { openTransport } from './transport.ts'
import { parseUri } from './uri.ts'

export interface ConnectOptions {
  /** until the connection is open, authentication included; default 30 000 */
  open_ms?: number
  /** default deadline of calls that only look or note something down; default 40 000, more than libvirt itself waits for a busy domain (30 s) */
  quick_ms?: number
  /** default deadline of calls that start, stop, copy or wait for a guest; default 180 000 */
  slow_ms?: number
  /** calls under way at once, 1 to 64; more wait for their turn. Default 4: daemons take 5 of one client, and pings count */
  window?: number
  /** default 5000, 3. `interval_ms: 0` sends none */
  keepalive?: { interval_ms: number; misses: number }
  /** the daemon refuses whatever would change something */
  readonly?: boolean
  signal?: AbortSignal
  /** where the sockets of a session are looked for; default process.env */
  env?: NodeJS.ProcessEnv
}

/** One connection. When it is over it stays over: connect again and forget this object. */
export interface Connection extends AsyncDisposable {
  uri: string
  /** the socket, or ssh and its host */
  where: string
  host: ReturnType<typeof hostCalls>
  domains: ReturnType<typeof domainCalls>
  networks: ReturnType<typeof networkCalls>
  pools: ReturnType<typeof poolCalls>
  volumes: ReturnType<typeof volumeCalls>
  /** Resolves once the daemon has promised to send them: list afterwards, and nothing is missed. */
  events: Subscribe
  /** resolves when it is over, with what ended it; it never rejects */
  ended: Promise<ConnectionError>
  isOver(): boolean
  load(): ReturnType<Channel['load']>
  /** The same connection; its calls have these options where they say nothing else. */
  with(defaults: CallOptions): Connection
  /** Takes leave of the daemon. Calls that are under way are rejected. */
  close(): Promise<void>
}

/** REMOTE_AUTH_… */
const Auth = { none: 0, sasl: 1, polkit: 2 } as const
/** VIR_DRV_FEATURE_…, src/libvirt_internal.h. Asking for the first also makes the daemon send pings of its own. */
const Feature = { program_keepalive: 10, event_callback: 14 } as const
const READONLY = 1

/**
 * Opens a connection: `qemu:///system`, `qemu:///session`, `test:///default`, each with `?socket=PATH`, or `qemu+ssh://user@host/system`.
 * @throws TypeError for a URI or an option that is wrong
 * @throws ConnectionError when there is no daemon, it wants another authentication, or does not answer within `open_ms`
 * @throws LibvirtError when the daemon will not open this URI
 */
export async function connect(uri: string, o: ConnectOptions = {}): Promise<Connection> {
  const target = parseUri(uri, { env: o.env, ...(o.readonly ? { readonly: true } : {}) })
  const window = o.window ?? 4
  if (!Number.isInteger(window) || window < 1 || window > 64)
    throw new TypeError(`The window is ${window}; 1 to 64 are allowed.`)
  const open_ms = o.open_ms ?? 30_000
  const timeout = new AbortController()
  const timer = setTimeout(
    () =>
      timeout.abort(
        new ConnectionError(
          'unresponsive',
          `libvirt has not let us in within ${open_ms} ms (${uri}); it is frozen, overloaded, or something else listens there.`,
        ),
      ),
    open_ms,
  )
  const signal = o.signal ? AbortSignal.any([o.signal, timeout.signal]) : timeout.signal
  let channel: Channel | undefined
  try {
    const transport = await openTransport(target, signal)
    channel = openChannel(transport, {
      window,
      deadlines: { quick_ms: o.quick_ms ?? 40_000, slow_ms: o.slow_ms ?? 180_000 },
    })
    await handshake(channel, { target: target.driver_uri, where: transport.where, o, signal })
    return connection(uri, transport.where, channel)
  } catch (error) {
    channel?.end(new ConnectionError('closed', 'The connection could not be opened.', { cause: error }))
    throw o.signal?.aborted ? o.signal.reason : timeout.signal.aborted ? timeout.signal.reason : error
  } finally {
    clearTimeout(timer)
  }
}

async function handshake(
  channel: Channel,
  h: { target: string; where: string; o: ConnectOptions; signal: AbortSignal },
): Promise<void> {
  const call: CallOptions = { signal: h.signal, deadline_ms: 0 }
  await authenticate(channel, h.where, call)
  const alive = h.o.keepalive ?? { interval_ms: 5000, misses: 3 }
  if (alive.interval_ms > 0 && (await channel.call(p.supportsFeature, [Feature.program_keepalive], call))) {
    channel.keepalive(alive.interval_ms, alive.misses)
  }
  // nothing else is sent before this is answered: a daemon that has just started mixes them up
  await channel.call(p.connectOpen, [h.target, h.o.readonly ? READONLY : 0], call)
  if (!(await channel.call(p.supportsFeature, [Feature.event_callback], call))) {
    throw new ConnectionError('protocol', `libvirt at ${h.where} is older than 1.1.2 and numbers events otherwise.`)
  }
  channel.established()
}

async function authenticate(channel: Channel, where: string, call: CallOptions): Promise<void> {
  const kinds = await channel.call(p.authList, [], call)
  if (kinds.length === 0 || kinds.includes(Auth.none)) return
  if (!kinds.includes(Auth.polkit)) {
    const wanted = kinds.map((k) => (k === Auth.sasl ? 'SASL' : `number ${k}`)).join(', ')
    throw new ConnectionError(
      'authentication',
      `libvirt at ${where} wants the authentication ${wanted}; this client does none and polkit.`,
    )
  }
  try {
    if (await channel.call(p.authPolkit, [], call)) return
  } catch (error) {
    if (!(error instanceof LibvirtError)) throw error
    throw new ConnectionError(
      'authentication',
      `libvirt at ${where} did not let us in by polkit: ${error.message}. On Debian, members of the group libvirt may.`,
      { cause: error },
    )
  }
  throw new ConnectionError('authentication', `libvirt at ${where} did not let us in by polkit.`)
}

/** a daemon that does not even take leave is left without */
const LEAVE_MS = 1000

function connection(uri: string, where: string, channel: Channel): Connection {
  const { call } = channel
  const close = async (): Promise<void> => {
    if (channel.isOver()) return
    const left = channel.call(p.connectClose, [], { deadline_ms: LEAVE_MS }).catch(() => {})
    // calls that wait for their turn must not hold it up
    await Promise.race([left, channel.ended, new Promise((r) => setTimeout(r, LEAVE_MS).unref())])
    channel.end(new ConnectionError('closed', `The connection to libvirt at ${where} was closed by this program.`))
  }
  const calls = (c: Call) => ({
    host: hostCalls(c),
    domains: domainCalls(c, channel.stream),
    networks: networkCalls(c),
    pools: poolCalls(c),
    volumes: volumeCalls(c),
  })
  const view: Connection = {
    uri,
    where,
    ...calls(call),
    with: (defaults) => ({ ...view, ...calls((p, args, options) => call(p, args, { ...defaults, ...options })) }),
    events: subscriptions(channel),
    ended: channel.ended,
    isOver: channel.isOver,
    load: channel.load,
    close,
    [Symbol.asyncDispose]: close,
  }
  return view
}
