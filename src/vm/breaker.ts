/**
 * The circuit breaker before libvirt (cockatiel's, with its times made safe against a clock that is set). It counts what tells that the
 * daemon is away or hangs; what the daemon itself answers, a refusal included, is a sign of life and never counted.
 */
import { BrokenCircuitError, CircuitState, circuitBreaker, handleWhen, type IBreaker } from 'cockatiel'
import { pause } from './pause.ts'

export interface BreakerOptions {
  /** so many failures without a success between them open it */
  failures: number
  /** how long it is open, in ms: the first time, doubled with each trial that fails, up to the last */
  open_ms: { first: number; last: number }
  /** told when it opens (true) and closes (false), not of trials between */
  onChange?(open: boolean): void
}

export interface Breaker {
  /**
   * Runs one attempt. While the breaker is open it waits until a trial is due; that one decides whether it closes.
   * @throws what `work` throws, or the signal's reason
   */
  attempt<T>(work: () => Promise<T>, signal: AbortSignal): Promise<T>
  /** something failed that was no attempt: it counts */
  failed(error: unknown): void
  /** it works: what failed before is forgotten */
  worked(): void
  /** `next_try_ms` from now; 0 while a trial is under way */
  state(): { open: boolean; failures: number; next_try_ms?: number }
}

export function createBreaker(o: BreakerOptions): Breaker {
  /** monotonic time when the next trial is due */
  let due = 0
  // A session that could be opened does not prove that libvirt works: one that dies of its first call opens well each time. So a success
  // resets the count only when it was the trial that closes the breaker; else `worked` does.
  const counter: IBreaker = {
    state: 0,
    success(at) {
      if (at === CircuitState.HalfOpen) counter.state = 0
    },
    failure() {
      counter.state = count() + 1
      return count() >= o.failures
    },
  }
  const count = (): number => counter.state as number
  let told = false
  const tell = (open: boolean): void => {
    if (told === open) return
    told = open
    o.onChange?.(open)
  }
  const step = (attempt: number) => {
    const duration = Math.min(o.open_ms.last, o.open_ms.first * 2 ** Math.min(30, attempt - 1))
    due = performance.now() + duration
    return { duration, next: (c: { attempt: number }) => step(c.attempt) }
  }
  // A wrong argument is our own fault, and says nothing about libvirt.
  const counts = handleWhen((error) => !(error instanceof TypeError))
  const make = (initialState?: unknown) => {
    const policy = circuitBreaker(counts, {
      breaker: counter,
      halfOpenAfter: { next: (c: { attempt: number }) => step(c.attempt) },
      ...(initialState === undefined ? {} : { initialState }),
    })
    policy.onBreak(() => tell(true))
    policy.onReset(() => tell(false))
    return policy
  }
  let policy = make()
  const isOpen = (): boolean => policy.state !== CircuitState.Closed

  return {
    async attempt(work, signal) {
      for (;;) {
        signal.throwIfAborted()
        const left = due - performance.now()
        if (policy.state === CircuitState.Open && left > 0) await pause(left, signal, { ref: false })
        try {
          return await policy.execute(work)
        } catch (error) {
          if (!(error instanceof BrokenCircuitError)) throw error
          // Its time is over by our clock but not by the wall clock, which was set back: the trial is due all the same.
          if (due <= performance.now()) {
            const saved = policy.toJSON() as { ownState: object; breakerState: unknown }
            const then = due
            policy = make({ ...saved, ownState: { ...saved.ownState, openedAt: 0 } })
            due = then
          }
        }
      }
    },
    failed(error) {
      void policy
        .execute(() => {
          throw error
        })
        .catch(() => {})
    },
    worked() {
      if (!isOpen()) counter.state = 0
    },
    state: () => ({
      open: isOpen(),
      failures: count(),
      ...(isOpen() ? { next_try_ms: Math.max(0, Math.round(due - performance.now())) } : {}),
    }),
  }
}
