/** Events of one connection, shared out to who subscribed to them. */
import type { Channel } from './channel.ts'
import { EventsLostError } from './errors.ts'
import type { CallOptions } from './procedure.ts'
import { type DomainEvent, type EventKind, eventDeregister, eventRegister, events } from './procedures/events.ts'
import type { Domain } from './structs.ts'

/**
 * Ends when the connection was closed by us or the subscription itself; throws ConnectionError when the connection was lost, and
 * EventsLostError when more events waited than allowed. In both cases what came before is still given.
 */
export interface EventSubscription extends AsyncIterableIterator<DomainEvent>, AsyncDisposable {
  /** Tells the daemon to send no more, and ends the iteration. */
  close(): Promise<void>
}

export interface SubscribeOptions extends CallOptions {
  /** which kinds; default lifecycle only */
  kinds?: readonly EventKind[]
  /** of this domain only */
  domain?: Domain
  /** so many events may wait to be read; default 10 000 */
  limit?: number
}

export type Subscribe = (o?: SubscribeOptions) => Promise<EventSubscription>

const byKind = new Map(events.map((e) => [e.kind, e]))

export function subscriptions(channel: Channel): Subscribe {
  /** `number:callback` as the daemon gives them out → who gets it */
  const sinks = new Map<string, (event: DomainEvent) => void>()
  // one that is not in the map was deregistered while it was on its way
  channel.onEvent((number, callback, event) => sinks.get(`${number}:${callback}`)?.(event))

  return async (o = {}) => {
    const limit = o.limit ?? 10_000
    const queue: DomainEvent[] = []
    const readers: { resolve: (r: IteratorResult<DomainEvent>) => void; reject: (e: unknown) => void }[] = []
    /** set once nothing more will be queued; `error` is thrown after what was queued */
    let finished: { error?: unknown } | undefined
    const registered: { key: string; callback: number }[] = []

    const finish = (error?: unknown): void => {
      if (finished) return
      finished = { error }
      for (const { key } of registered) sinks.delete(key)
      for (const r of readers.splice(0)) {
        if (finished.error === undefined) r.resolve({ done: true, value: undefined })
        else {
          r.reject(finished.error)
          finished.error = undefined // thrown once; then the iteration is over
        }
      }
    }
    const deregister = async (): Promise<void> => {
      if (channel.isOver()) return
      await Promise.allSettled(registered.splice(0).map((r) => channel.call(eventDeregister, [r.callback])))
    }
    const push = (event: DomainEvent): void => {
      if (finished) return
      const reader = readers.shift()
      if (reader) reader.resolve({ done: false, value: event })
      else if (queue.length < limit) queue.push(event)
      else {
        finish(new EventsLostError(limit))
        void deregister()
      }
    }
    const close = async (): Promise<void> => {
      queue.length = 0
      finish()
      await deregister()
    }

    try {
      for (const kind of new Set(o.kinds ?? (['lifecycle'] as const))) {
        const e = byKind.get(kind)
        if (!e)
          throw new TypeError(
            `${JSON.stringify(kind)} is no kind of event; these are: ${[...byKind.keys()].join(', ')}.`,
          )
        // the first event may follow its registration's answer in the same packet
        const now = (callback: number) => {
          const key = `${e.number}:${callback}`
          registered.push({ key, callback })
          sinks.set(key, push)
        }
        await channel.callThen(eventRegister, [e.id, o.domain ?? null], now, o)
      }
    } catch (error) {
      await close()
      throw error
    }
    void channel.ended.then((why) => finish(why.reason === 'closed' ? undefined : why))

    const subscription: EventSubscription = {
      async next() {
        const event = queue.shift()
        if (event) return { done: false, value: event }
        if (finished) {
          const { error } = finished
          finished.error = undefined
          if (error !== undefined) throw error
          return { done: true, value: undefined }
        }
        return new Promise((resolve, reject) => readers.push({ resolve, reject }))
      },
      async return() {
        await close()
        return { done: true, value: undefined }
      },
      close,
      [Symbol.asyncDispose]: close,
      [Symbol.asyncIterator]: () => subscription,
    }
    return subscription
  }
}
