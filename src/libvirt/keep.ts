import { type ConnectOptions, type Connection, connect } from './connect.ts'
import { type ConnectionError, isLibvirtError } from './errors.ts'
import type { DomainWithState } from './domains.ts'
import type { EventKind } from './procedures/events.ts'
import type { Network, Pool } from './structs.ts'
import type { EventSubscription } from './subscriptions.ts'

/**
 * One spell of being connected, and what there was when it began. Events were registered before anything was listed: what happened
 * before is in the lists, what happened since comes as an event, and what happened in between is in both.
 */
export interface Session {
  /** for everything that answers at once, and for events */
  query: Connection
  /** for what is slow: create, destroy, shutdown by agent, save. It cannot hold up queries or events */
  control: Connection
  /** ends, without an error, when the session does */
  events: EventSubscription
  domains: DomainWithState[]
  /** undefined where the driver has none */
  networks: Network[] | undefined
  pools: Pool[] | undefined
  /** resolves when either connection is over, with why; the other is closed then */
  ended: Promise<ConnectionError>
  isOver(): boolean
}

export type LinkState =
  | { state: 'connected'; since: Date; session: Session }
  /** `error` of the last attempt or connection, `attempts` since the last session */
  | { state: 'connecting'; since: Date; attempts: number; error?: unknown }
  | { state: 'closed' }

export interface Link extends AsyncIterable<Session>, AsyncDisposable {
  /**
   * The session that is, or the next one that comes. @throws the signal's reason, or an Error once the link is closed
   */
  session(o?: { signal?: AbortSignal }): Promise<Session>
  state(): LinkState
  /** Ends the session that is, and every iteration. */
  close(): Promise<void>
}

export interface KeepOptions extends Omit<ConnectOptions, 'signal'> {
  /** default lifecycle only */
  kinds?: readonly EventKind[]
  /** waits after failed attempts: the first, doubled up to the last, each shortened by up to a half at random; default 100, 5000 */
  retry_ms?: { first: number; last: number }
  /** Each attempt goes through this, which may put it off or count how it ends. `signal` is aborted when the link is closed. */
  attempt?: (open: () => Promise<Session>, signal: AbortSignal) => Promise<Session>
  /** each attempt that failed */
  onFailure?: (error: unknown, attempts: number) => void
}

/**
 * Stays connected through restarts of the daemon. Iterating gives one Session after the other, each with connections of its own;
 * a session that nobody fetched in its time is left out.
 * @throws TypeError for a URI or an option that is wrong, from the first `session()` or turn of the iteration
 */
export function keepConnected(uri: string, o: KeepOptions = {}): Link {
  const closing = new AbortController()
  let state: LinkState = { state: 'connecting', since: new Date(), attempts: 0 }
  let fatal: unknown
  let changed = Promise.withResolvers<void>()
  const become = (next: LinkState) => {
    state = next
    const before = changed
    changed = Promise.withResolvers()
    before.resolve()
  }

  const run = async (): Promise<void> => {
    const { first, last } = o.retry_ms ?? { first: 100, last: 5000 }
    let wait = first
    let attempts = 0
    while (!closing.signal.aborted) {
      try {
        const open = () => openSession(uri, o, closing.signal)
        const session = await (o.attempt ? o.attempt(open, closing.signal) : open())
        if (closing.signal.aborted) {
          await endSession(session)
          break
        }
        become({ state: 'connected', since: new Date(), session })
        const began = performance.now()
        const why = await session.ended
        attempts = 0
        // a daemon that lets us in and dies of it again and again is not asked ten times a second
        if (performance.now() - began > last) wait = first
        if (!closing.signal.aborted) become({ state: 'connecting', since: new Date(), attempts, error: why })
      } catch (error) {
        if (closing.signal.aborted) break
        if (error instanceof TypeError) {
          fatal = error
          break
        }
        attempts++
        become({
          state: 'connecting',
          since: state.state === 'connecting' ? state.since : new Date(),
          attempts,
          error,
        })
        o.onFailure?.(error, attempts)
      }
      await pause(wait * (0.5 + Math.random() / 2), closing.signal)
      wait = Math.min(last, wait * 2)
    }
    become({ state: 'closed' })
  }
  const running = run()

  /** the next session after `before` */
  const next = async (before: Session | undefined, signal?: AbortSignal): Promise<Session | undefined> => {
    for (;;) {
      signal?.throwIfAborted()
      if (fatal !== undefined) throw fatal
      if (state.state === 'closed' || closing.signal.aborted) return undefined
      if (state.state === 'connected' && state.session !== before && !state.session.isOver()) return state.session
      await orAbort(changed.promise, signal)
    }
  }
  const close = async (): Promise<void> => {
    closing.abort(new Error('The link to libvirt was closed.'))
    if (state.state === 'connected') await endSession(state.session)
    await running
  }

  return {
    async session(so = {}) {
      const session = await next(undefined, so.signal)
      if (!session) throw new Error(`The link to libvirt (${uri}) is closed.`)
      return session
    },
    state: () => state,
    close,
    [Symbol.asyncDispose]: close,
    async *[Symbol.asyncIterator]() {
      let session: Session | undefined
      for (;;) {
        session = await next(session)
        if (!session) return
        yield session
      }
    },
  }
}

async function openSession(uri: string, o: KeepOptions, signal: AbortSignal): Promise<Session> {
  const query = await connect(uri, { ...o, signal })
  let control: Connection | undefined
  try {
    control = await connect(uri, { ...o, signal })
    const events = await query.events({ kinds: o.kinds, signal })
    const [domains, networks, pools] = await Promise.all([
      query.domains.states({ signal }),
      ifSupported(query.networks.list([], { signal })),
      ifSupported(query.pools.list([], { signal })),
    ])
    const both = [query, control]
    const ended = Promise.race(both.map((c) => c.ended)).then(async (why) => {
      await Promise.all(both.map((c) => c.close()))
      return why
    })
    return {
      query,
      control,
      events: quiet(events),
      domains,
      networks,
      pools,
      ended,
      isOver: () => both.some((c) => c.isOver()),
    }
  } catch (error) {
    await Promise.all([query.close(), control?.close()])
    throw error
  }
}

const endSession = async (s: Session): Promise<void> => {
  await Promise.all([s.query.close(), s.control.close()])
  await s.ended
}

/** not every driver has networks or storage; others may lack the module */
async function ifSupported<T>(list: Promise<T[]>): Promise<T[] | undefined> {
  try {
    return await list
  } catch (error) {
    if (isLibvirtError(error, 'no_support', 'no_connect', 'operation_unsupported')) return undefined
    throw error
  }
}

/** The end of the connection ends the iteration; that it was lost is what `ended` tells. Too many events remain an error. */
function quiet(events: EventSubscription): EventSubscription {
  const wrapped: EventSubscription = {
    async next() {
      try {
        return await events.next()
      } catch (error) {
        if ((error as Error)?.name === 'ConnectionError') return { done: true, value: undefined }
        throw error
      }
    },
    return: () => events.return!(),
    close: events.close,
    [Symbol.asyncDispose]: events.close,
    [Symbol.asyncIterator]: () => wrapped,
  }
  return wrapped
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve()
    const done = () => {
      clearTimeout(timer)
      signal.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, ms)
    signal.addEventListener('abort', done, { once: true })
  })
}

/** Waits for `promise`, or throws the signal's reason. */
function orAbort(promise: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  if (!signal) return promise
  return new Promise((resolve, reject) => {
    const aborted = () => reject(signal.reason)
    signal.addEventListener('abort', aborted, { once: true })
    void promise.then(() => {
      signal.removeEventListener('abort', aborted)
      resolve()
    })
  })
}
