/** What keys do to jobs and instances, through the same functions as the command line. Each says how it went. */
import { cancelJob } from '../client/cancel.ts'
import { pauseInstance } from '../client/pause.ts'
import type { Place } from '../client/place.ts'
import { retryJob } from '../client/retry.ts'
import { isFinal, type JobStatus } from '../client/status.ts'
import type { Context } from './screen.ts'

export interface Actions {
  cancel(job: JobStatus): void
  retry(job: JobStatus): void
  /** ends the process: TERM, or KILL */
  stop(job: JobStatus, force: boolean): void
  rerun(job: JobStatus): void
  pause(place: Place, paused: boolean): void
}

/** @param touched called with a job's id, or none, when something was done */
export function actionsOf(c: Context, touched: (id?: string) => void): Actions {
  const busy = new Set<string>()
  /** One at a time of a kind for each job: a key that repeats itself asks for nothing more. */
  function act(what: string, id: string, run: () => Promise<string>): void {
    const key = `${what} ${id}`
    if (busy.has(key)) return
    busy.add(key)
    run()
      .then(c.say, c.fail)
      .finally(() => {
        busy.delete(key)
        touched(id)
        c.changed()
      })
  }

  const cancel = (job: JobStatus): Promise<string> =>
    cancelJob(c.place(), job.id).then(() => `The cancellation of ${job.name} (${job.id}) was requested.`)
  const again = (job: JobStatus): Promise<string> =>
    retryJob(c.place(), job.id).then(() => `${job.name} was submitted again, as a new job that names ${job.id}.`)

  return {
    cancel(job) {
      if (isFinal(job)) return c.say(`${job.name} has ended already: ${job.state}. There is nothing to cancel.`)
      c.ask(`Cancel ${job.name} (${job.state})?`, () => act('cancel', job.id, () => cancel(job)))
    },
    retry(job) {
      act('retry', job.id, () => again(job))
    },
    rerun(job) {
      act('rerun', job.id, () => again(job))
    },
    stop(job) {
      if (isFinal(job)) return c.say(`${job.name} has ended already: ${job.state}. There is nothing to stop.`)
      act('stop', job.id, () => cancel(job))
    },
    pause(place, paused) {
      act('pause', place.instance, async () => {
        await pauseInstance(place, paused)
        return paused
          ? `${place.instance} is paused: no more jobs are claimed, running ones go on.`
          : `${place.instance} goes on claiming jobs.`
      })
    },
  }
}
