/**
 * Which job became of a drop. A client knows only the name it dropped a file under; the job's id is the agent's. Found in
 * one of three ways, cheapest first: the status of the answer name the manifest asks for; the event file; every job that is
 * new since the drop. The last alone is certain: a name may have been taken over by a later job, and an event file on a
 * network file system can lose lines.
 */
import { endOfEvents, readEvents } from '../spool/events.ts'
import type { Place } from './place.ts'
import { type JobStatus, jobIds, statusOf, statusOfName } from './status.ts'

export interface Acceptance {
  /** Looks once. Many drops may share one: each line and each new job is read once for all of them. */
  find(drop: { drop_file: string; name?: string }): Promise<JobStatus | undefined>
}

/** Least time between two looks at the event file, and at the list of jobs, in ms. */
const eventsMs = 50
const jobsMs = 1000

/** Begins to follow what is accepted. Call it before the drop; with `all` also jobs that are there already are looked at. */
export async function followAcceptance(place: Place, o: { all?: boolean } = {}): Promise<Acceptance> {
  const jobOf = new Map<string, string>()
  const known = new Set<string>(o.all ? [] : await jobIds(place))
  let at = o.all ? undefined : await endOfEvents(place)
  const lookAtEvents = atMostEvery(eventsMs, async () => {
    for (let more = true; more; ) {
      const read = await readEvents(place, at)
      for (const { drop_file, job } of read.events) {
        if (typeof drop_file === 'string' && typeof job === 'string') jobOf.set(drop_file, job)
      }
      at = read.position
      more = read.more
    }
  })
  const readJobs = atMostEvery(jobsMs, async () => {
    for (const id of await jobIds(place)) {
      if (known.has(id)) continue
      const status = await statusOf(place, id)
      if (status === undefined) continue
      known.add(id)
      jobOf.set(status.drop_file, id)
    }
  })
  const noted = async (drop: string): Promise<JobStatus | undefined> => {
    const id = jobOf.get(drop)
    return id === undefined ? undefined : statusOf(place, id)
  }
  return {
    async find({ drop_file, name }) {
      if (name !== undefined && !jobOf.has(drop_file)) {
        const status = await statusOfName(place, name)
        if (status?.drop_file === drop_file) {
          jobOf.set(drop_file, status.id)
          return status
        }
      }
      if (!jobOf.has(drop_file)) await lookAtEvents()
      if (!jobOf.has(drop_file)) await readJobs()
      return noted(drop_file)
    },
  }
}

/** Calls that come together share one run; a call that comes too early is answered with what the last run found. */
function atMostEvery(ms: number, run: () => Promise<void>): () => Promise<void> {
  let last = Number.NEGATIVE_INFINITY
  let running: Promise<void> | undefined
  return () => {
    if (running !== undefined) return running
    if (performance.now() - last < ms) return Promise.resolve()
    running = run().finally(() => {
      last = performance.now()
      running = undefined
    })
    return running
  }
}
