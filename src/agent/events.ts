/** events.jsonl, written beside the work: what happened in the meantime goes out in one write, in order. */
import { appendEvent, type Spool, type SpoolEvent } from '../spool/index.ts'

export interface Events {
  add(e: SpoolEvent): void
  flush(): Promise<void>
}

/** More than this waits only when the disk refuses; then the oldest are dropped. */
const MAX_WAITING = 10_000

export function createEvents(spool: Spool, onError: (error: unknown) => void): Events {
  let waiting: SpoolEvent[] = []
  let writing: Promise<void> | undefined
  let failed = false

  async function write(): Promise<void> {
    while (waiting.length > 0 && !failed) {
      const batch = waiting
      waiting = []
      try {
        await appendEvent(spool, batch)
      } catch (e) {
        waiting = [...batch, ...waiting].slice(-MAX_WAITING)
        failed = true
        onError(e)
      }
    }
  }
  function start(): Promise<void> {
    failed = false
    writing ??= Promise.resolve()
      .then(write)
      .finally(() => {
        writing = undefined
      })
    return writing
  }
  return {
    add(e) {
      // The time of the event, not of the write.
      waiting.push({ at: new Date().toISOString(), ...e })
      void start()
    },
    flush: async () => {
      await writing
      if (waiting.length > 0) await start()
    },
  }
}
