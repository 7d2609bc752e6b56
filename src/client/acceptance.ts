/**
 * Which job became of a drop. A client knows only the name it dropped a file under; the job's id is the agent's. Found in
 * one of three ways, cheapest first: the status of the answer name the manifest asks for; the event file; every job that is
 * new since the drop. The last alone is certain: a name may have been taken over by a later job, and an event file on a
 * network file system can lose lines.
 */
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import type { Place } from './place.ts'
import { type JobStatus, jobIds, statusOf, statusOfName } from './status.ts'

export interface Acceptance {
  /** Looks once. Many drops may share one: each line and each new job is read once for all of them. */
  find(drop: { drop_file: string; name?: string }): Promise<JobStatus | undefined>
}

/** Least time between two looks at the event file, and at the list of jobs, in ms. */
const eventsMs = 50
const jobsMs = 1000
const chunk = 1 << 20

/** Begins to follow what is accepted. Call it before the drop; with `all` also jobs that are there already are looked at. */
export async function followAcceptance(place: Place, o: { all?: boolean } = {}): Promise<Acceptance> {
  const path = join(place.layout.daemon, 'events.jsonl')
  const jobOf = new Map<string, string>()
  const known = new Set<string>(o.all ? [] : await jobIds(place))
  let offset = o.all ? 0 : await sizeOf(path)
  const readEvents = atMostEvery(eventsMs, async () => {
    const text = await readFrom(path, offset)
    if (text === undefined) return
    offset = text.end
    for (const line of text.text.split('\n')) noteEvent(line, jobOf)
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
      if (!jobOf.has(drop_file)) await readEvents()
      if (!jobOf.has(drop_file)) await readJobs()
      return noted(drop_file)
    },
  }
}

function noteEvent(line: string, jobOf: Map<string, string>): void {
  if (!line.includes('"drop_file"')) return
  try {
    const event = JSON.parse(line) as { job?: unknown; drop_file?: unknown }
    if (typeof event.drop_file === 'string' && typeof event.job === 'string') jobOf.set(event.drop_file, event.job)
  } catch {
    // two lines that ran into each other: the look at the jobs finds it
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

async function readFrom(path: string, offset: number): Promise<{ text: string; end: number } | undefined> {
  try {
    const file = await open(path, 'r')
    try {
      const { size } = await file.stat()
      // A file that became shorter was begun anew.
      let at = size < offset ? 0 : offset
      const parts: Buffer[] = []
      while (at < size) {
        const buffer = Buffer.allocUnsafe(Math.min(chunk, size - at))
        const { bytesRead } = await file.read(buffer, 0, buffer.length, at)
        if (bytesRead === 0) break
        parts.push(buffer.subarray(0, bytesRead))
        at += bytesRead
      }
      const bytes = Buffer.concat(parts)
      // Only whole lines are consumed, so that no character is cut in two.
      const whole = bytes.lastIndexOf(10) + 1
      return { text: bytes.toString('utf8', 0, whole), end: at - (bytes.length - whole) }
    } finally {
      await file.close()
    }
  } catch (error) {
    if (['ENOENT', 'ESTALE'].includes(String((error as NodeJS.ErrnoException).code))) return undefined
    throw error
  }
}

async function sizeOf(path: string): Promise<number> {
  try {
    const file = await open(path, 'r')
    try {
      return (await file.stat()).size
    } finally {
      await file.close()
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 0
    throw error
  }
}
