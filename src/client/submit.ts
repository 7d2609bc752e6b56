/** Dropping work into the queue, and finding out which job became of it. */
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { drop } from '../spool/index.ts'
import { readJson } from './liveness.ts'
import { type Place, requireSpool } from './place.ts'
import { type JobStatus, jobIds, statusOf, statusOfName } from './status.ts'

export interface Submission {
  /** the unique name in the queue; a job's status names it as `drop_file` */
  drop_file: string
  /** the answer name the manifest asks for, where it could be read */
  name?: string
  /** from where on in the event file this drop's acceptance can be found, and which jobs were there before */
  readonly since: Bookmark
}

export interface Bookmark {
  events: number
  ids: ReadonlySet<string>
}

/**
 * Drops one manifest (JSON or YAML text): written under a dot-name, flushed, renamed, so that no agent ever sees a part of
 * it. What this returns for survives a power loss.
 * @param fileName what the drop is called; made unique, the extension stays and says whether it is JSON or YAML
 */
export async function dropManifest(
  place: Place,
  bytes: Uint8Array,
  fileName: string,
  name?: string,
): Promise<Submission> {
  await requireSpool(place, 'submit')
  const since = await bookmark(place)
  const dropped = await drop(place.spool, bytes, fileName)
  return { drop_file: dropped, ...(name === undefined ? {} : { name }), since }
}

async function bookmark(place: Place): Promise<Bookmark> {
  return { events: await sizeOf(eventsPath(place)), ids: new Set(await jobIds(place)) }
}

function eventsPath(place: Place): string {
  return join(place.layout.daemon, 'events.jsonl')
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

/**
 * Looks once whether the drop has become a job. Three ways, cheapest first: the status of the name it asks for, the lines
 * that were added to the event file, and (`thorough`) every job that was not there before: the event file of a network
 * file system can lose lines, a folder cannot.
 */
export async function acceptedJob(
  place: Place,
  submission: Submission,
  thorough: boolean,
): Promise<JobStatus | undefined> {
  const { drop_file, name, since } = submission
  if (name !== undefined) {
    const status = await statusOfName(place, name)
    if (status?.drop_file === drop_file) return status
  }
  const id = await acceptedEvent(place, drop_file, since.events)
  if (id !== undefined) {
    const status = await statusOf(place, id)
    if (status !== undefined) return status
  }
  if (!thorough) return undefined
  for (const candidate of await jobIds(place)) {
    if (since.ids.has(candidate)) continue
    const status = await statusOf(place, candidate)
    if (status?.drop_file === drop_file) return status
  }
  return undefined
}

async function acceptedEvent(place: Place, dropFile: string, from: number): Promise<string | undefined> {
  let file: Awaited<ReturnType<typeof open>>
  try {
    file = await open(eventsPath(place), 'r')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
  try {
    const { size } = await file.stat()
    // A shorter file was rotated: read it from its beginning.
    const start = size < from ? 0 : from
    const bytes = Buffer.alloc(Math.min(size - start, 4 << 20))
    await file.read(bytes, 0, bytes.length, start)
    for (const line of bytes.toString('utf8').split('\n')) {
      if (!line.includes(dropFile)) continue
      try {
        const event = JSON.parse(line) as { event?: string; job?: string; drop_file?: string }
        if (event.drop_file === dropFile && typeof event.job === 'string') return event.job
      } catch {
        // half a line, or two that ran into each other: the thorough look finds the job
      }
    }
    return undefined
  } finally {
    await file.close()
  }
}

export { readJson }
