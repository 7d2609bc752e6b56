/** How an agent ends: it begins nothing new, waits for what runs, and after a deadline gives it back. */
import { aloneOnThisHost, leaving } from './carried.ts'
import { draining } from './runner.ts'
import type { Agent } from './state.ts'

export interface Ending {
  /** resolves when nothing runs any more */
  readonly over: Promise<void>
  /** Drains. With a deadline (ms), what still runs then is given back. A second call gives back at once. */
  drain(why: string, deadlineMs?: number): void
}

export function createEnding(a: Agent): Ending {
  const over = Promise.withResolvers<void>()
  let timer: NodeJS.Timeout | undefined
  /** no agent of another host could take a command up that still runs here */
  let alone = false

  /** Commands need no agent: one that has to go leaves them to the next one at once. */
  const leaveCommands = async (): Promise<void> => {
    alone = await aloneOnThisHost(a.spool).catch(() => false)
    if (!alone) return
    for (const job of a.running.values()) {
      if (job.claim.record.kind === 'command') job.abort(leaving)
    }
  }
  const giveBack = (why: string): void => {
    clearTimeout(timer)
    for (const job of a.running.values()) {
      const message = `The agent was stopped (${why}); another one goes on with the job.`
      job.abort({ kind: 'drain', message, leave: alone })
    }
  }
  /** Claims under way count as well as running jobs. */
  const look = (): void => {
    if (a.inFlight.size === 0 && a.running.size === 0) {
      clearTimeout(timer)
      over.resolve()
    } else setTimeout(look, 20)
  }
  return {
    over: over.promise,
    drain(why, deadlineMs) {
      if (a.draining) {
        if (deadlineMs !== undefined) giveBack('told twice to stop')
        return
      }
      a.draining = true
      a.log.info('agent.draining', { why, running: a.running.size, deadline_ms: deadlineMs })
      // A batch only waits, for jobs that this agent will not begin any more: the next one goes on with it.
      for (const job of a.running.values()) if (job.weight === 0) job.abort(draining)
      if (deadlineMs !== undefined) {
        timer = setTimeout(() => giveBack(`the drain deadline of ${deadlineMs} ms`), deadlineMs)
        void leaveCommands()
      }
      look()
    },
  }
}
