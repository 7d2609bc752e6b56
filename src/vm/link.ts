/**
 * The way to libvirt for whoever works with VMs: staying connected is src/libvirt's part; here is what a job may expect when the daemon
 * is away, hangs or is restarted in the middle. A circuit breaker (breaker.ts) keeps a daemon that cannot work from being asked all the time.
 */
import {
  ConnectionError,
  type ConnectOptions,
  DeadlineError,
  keepConnected,
  LibvirtError,
  type Session,
} from '../libvirt/index.ts'
import type { Logger } from '../observe/index.ts'
import { type BreakerOptions, createBreaker } from './breaker.ts'
import { VmError } from './types.ts'
import { pause } from './pause.ts'

/** What is counted, each since the link was opened. */
export interface LinkTotals {
  /** sessions that were opened */
  sessions: number
  /** by what went wrong: `unreachable` `authentication` `lost` `unresponsive` `protocol` `deadline` `refused` (to open at all) */
  failures: Record<string, number>
  /** times that the breaker opened */
  opened: number
}

export interface LinkHealth {
  /** open: it was away too often or too long, and is asked now and then only */
  state: 'connected' | 'connecting' | 'open'
  /** RFC 3339: connected since; or away since */
  since: string
  /** what went wrong last, while it is not connected */
  reason?: string
  /** without a success between them; `failures` of the options open the breaker */
  failures: number
  /** RFC 3339: of an open breaker */
  next_try?: string
  totals: LinkTotals
}

export interface UseOptions {
  /** ends waits and calls at once */
  signal: AbortSignal
  /** what is done, as in "to start the VM web": for messages */
  what: string
  /** told what is waited for, anew when that changes, and undefined when it goes on */
  onWait?(why: string | undefined): void
  /** false: rather fail at once */
  wait?: boolean
}

export interface VmLink extends AsyncDisposable {
  /**
   * Runs `fn` with a session, whose calls end with `signal`. When the connection is lost or a call hangs inside it, waits for the next session
   * and runs `fn` again, so `fn` MUST be convergent: read what is, then do what is missing. libvirt's own answers pass through at once.
   * @throws the signal's reason
   * @throws VmError 'hypervisor-down' with `wait: false`, when the link is closed, or when libvirt was lost several times in the middle of `fn`
   */
  use<T>(fn: (s: Session) => Promise<T>, o: UseOptions): Promise<T>
  health(): LinkHealth
  /** one sentence for whoever waits; undefined when connected */
  waitingFor(): string | undefined
  /** called when `health()` has another state or reason; @returns how to stop that */
  onChange(listener: () => void): () => void
  /** each session in its turn, for a reader that follows events */
  sessions(): AsyncIterable<Session>
  readonly uri: string
}

export interface LinkOptions {
  uri: string
  log: Pick<Logger, 'info' | 'warn'>
  /** default 5 failures; open for 2 s at first, for 30 s at last */
  breaker?: Partial<Pick<BreakerOptions, 'failures' | 'open_ms'>>
  /** waits between attempts while the breaker is closed; default 250, 2000 */
  retry_ms?: { first: number; last: number }
  /** default: 20 s to let us in, a ping every 5 s of which 3 may be lost, 40 s for calls that look, 180 s for calls that do */
  connection?: Pick<ConnectOptions, 'open_ms' | 'quick_ms' | 'slow_ms' | 'keepalive'>
}

/** A call that ends the daemon each time must not do so for ever: so many losses in the middle of one `use`, each soon after its begin. */
const MOST_LOSSES = 5
const SOON_MS = 60_000
/** before a call that hung is asked again on the same connection */
const HANG_PAUSE_MS = 1000
/** a session that lived so long proves that libvirt works, also when nobody asks anything */
const PROOF_MS = 30_000

export function openLink(o: LinkOptions): VmLink {
  const totals: LinkTotals = { sessions: 0, failures: {}, opened: 0 }
  const listeners = new Set<() => void>()
  const closing = new AbortController()
  let session: Session | undefined
  let since = new Date()
  let reason: string | undefined

  const changed = (): void => {
    for (const listener of [...listeners]) listener()
  }
  const breaker = createBreaker({
    failures: o.breaker?.failures ?? 5,
    open_ms: o.breaker?.open_ms ?? { first: 2000, last: 30_000 },
    onChange(open) {
      if (open) {
        totals.opened++
        // Calls that hang while the connection stands: it is given up too, so that one way leads back, the trial.
        const hung = session
        if (hung) void Promise.all([hung.query.close(), hung.control.close()])
        o.log.warn('libvirt.breaker_open', { uri: o.uri, reason, failures: breaker.state().failures })
      } else o.log.info('libvirt.breaker_closed', { uri: o.uri })
      changed()
    },
  })
  const count = (error: unknown): void => {
    const kind = kindOf(error)
    totals.failures[kind] = (totals.failures[kind] ?? 0) + 1
  }
  const away = (error: unknown): void => {
    if (session || reason === undefined) since = new Date()
    session = undefined
    reason = error instanceof Error ? error.message : String(error)
  }

  /** each session goes through here once, and then its end */
  const opened = (s: Session): void => {
    totals.sessions++
    session = s
    since = new Date()
    reason = undefined
    const proof = setTimeout(() => breaker.worked(), PROOF_MS)
    proof.unref()
    o.log.info('libvirt.connected', { uri: o.uri, domains: s.domains.length })
    void s.ended.then((why) => {
      clearTimeout(proof)
      if (closing.signal.aborted) return
      away(why)
      // `closed`: we gave it up ourselves, and what made us do so is counted
      if (why.reason !== 'closed') {
        count(why)
        breaker.failed(why)
        o.log.warn('libvirt.lost', { uri: o.uri, error: why })
      }
      changed()
    })
    changed()
  }

  const link = keepConnected(o.uri, {
    retry_ms: o.retry_ms ?? { first: 250, last: 2000 },
    open_ms: 20_000,
    ...o.connection,
    async attempt(open, signal) {
      const s = await breaker.attempt(open, signal)
      opened(s)
      return s
    },
    onFailure(error, attempts) {
      count(error)
      away(error)
      if (attempts === 1) o.log.warn('libvirt.unreachable', { uri: o.uri, error })
      changed()
    },
  })

  // An address that cannot be one is told to whoever asks, and not tried again.
  link.session({ signal: closing.signal }).catch((error) => {
    if (!(error instanceof TypeError)) return
    away(error)
    changed()
  })
  const wrong = (error: TypeError): VmError =>
    new VmError(`libvirt cannot be reached at "${o.uri}": ${error.message}`, {
      code: 'hypervisor',
      hint: 'Correct libvirt.uri in the configuration.',
      cause: error,
    })

  const health = (): LinkHealth => {
    const b = breaker.state()
    const state = session && !session.isOver() ? 'connected' : b.open ? 'open' : 'connecting'
    return {
      state,
      since: since.toISOString(),
      ...(state === 'connected' || reason === undefined ? {} : { reason }),
      failures: b.failures,
      ...(state === 'open' && b.next_try_ms !== undefined
        ? { next_try: new Date(Date.now() + b.next_try_ms).toISOString() }
        : {}),
      totals,
    }
  }
  const waitingFor = (): string | undefined => {
    const h = health()
    if (h.state === 'connected') return undefined
    if (session) return `libvirt (${o.uri}), whose connection was lost just now`
    if (h.reason === undefined) return `the connection to libvirt (${o.uri}), which is being opened since ${h.since}`
    return `libvirt (${o.uri}), which is away since ${h.since}: ${h.reason}`
  }
  const down = (what: string, cause?: unknown): VmError =>
    new VmError(`libvirt (${o.uri}) is needed ${what}, and is away: ${reason ?? 'it has not answered yet.'}`, {
      code: 'hypervisor-down',
      transient: true,
      hint: 'See vmspool daemon status; start libvirtd (or virtqemud), or look into its log.',
      cause,
    })

  /** the session that is or comes; told to `onWait` only when it has to be waited for */
  const next = async (u: UseOptions): Promise<Session> => {
    u.signal.throwIfAborted()
    if (session && !session.isOver()) return session
    if (u.wait === false) throw down(u.what)
    let said: string | undefined
    const say = (): void => {
      const why = waitingFor()
      if (why === undefined || why === said) return
      said = why
      u.onWait?.(why)
    }
    listeners.add(say)
    say()
    try {
      return await link.session({ signal: u.signal })
    } catch (error) {
      u.signal.throwIfAborted()
      if (error instanceof TypeError) throw wrong(error)
      throw down(u.what, error) // the link was closed
    } finally {
      listeners.delete(say)
      if (said !== undefined) u.onWait?.(undefined)
    }
  }

  return {
    uri: o.uri,
    async use(fn, u) {
      let losses = 0
      for (;;) {
        const s = await next(u)
        const began = performance.now()
        const mine = {
          ...s,
          query: s.query.with({ signal: u.signal }),
          control: s.control.with({ signal: u.signal }),
        }
        try {
          const value = await fn(mine)
          breaker.worked()
          return value
        } catch (error) {
          u.signal.throwIfAborted()
          const loss = lossIn(error)
          if (loss && closing.signal.aborted) throw down(u.what, loss)
          if (!loss) {
            // an answer, even a refusal, is a sign of life
            if (error instanceof LibvirtError) breaker.worked()
            throw error
          }
          if (loss instanceof DeadlineError) {
            count(loss)
            breaker.failed(loss)
            o.log.warn('libvirt.hangs', { uri: o.uri, what: u.what, error: loss })
          }
          losses = performance.now() - began > SOON_MS ? 1 : losses + 1
          if (u.wait === false) throw down(u.what, loss)
          if (losses >= MOST_LOSSES) {
            throw new VmError(
              `libvirt (${o.uri}) was lost ${losses} times in the middle of what is needed ${u.what}; perhaps it ends because of that. The last time: ${loss.message}`,
              { code: 'hypervisor-down', transient: true, hint: 'Look into the log of libvirtd.', cause: loss },
            )
          }
          if (loss instanceof DeadlineError) {
            u.onWait?.(`libvirt (${o.uri}) to answer: ${loss.message}`)
            await pause(HANG_PAUSE_MS, u.signal)
            u.onWait?.(undefined)
          }
        }
      }
    },
    health,
    waitingFor,
    onChange(listener) {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },
    sessions: () => link,
    async [Symbol.asyncDispose]() {
      closing.abort()
      reason = 'This program has closed its connection.'
      await link.close()
    },
  }
}

/** What of an error, or of what caused it, tells that libvirt is away or hangs; undefined for everything else. */
function lossIn(error: unknown): ConnectionError | DeadlineError | undefined {
  for (let e = error, depth = 0; e instanceof Error && depth < 8; e = e.cause, depth++) {
    if (e instanceof LibvirtError) return undefined
    if (e instanceof ConnectionError || e instanceof DeadlineError) return e
  }
  return undefined
}

function kindOf(error: unknown): string {
  if (error instanceof ConnectionError) return error.reason
  if (error instanceof DeadlineError) return 'deadline'
  return error instanceof LibvirtError ? 'refused' : 'other'
}
