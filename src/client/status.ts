/**
 * Reading where jobs stand. output/ is what every client may read, on every host. Who may also read jobs/ gets the folders'
 * word on a job's state: a status file can be older than the last rename.
 */
import { open, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { batchSuffix } from '../manifest/safe-name.ts'
import { errno } from '../process/errno.ts'
import { type GhostWord, ghostWord, statesOfWord } from '../spool/ghost.ts'
import { type FoundJob, listJobs as listFolders } from '../spool/find.ts'
import { childPrefix, keyOf, parseJobName } from '../spool/names.ts'
import type { JobStatus } from '../spool/schema.ts'
import { ClientError } from './errors.ts'
import type { Candidate, IndexedJobs } from './history.ts'
import { requireSpool, type View } from './place.ts'
import { readJson } from './read-json.ts'

export type { JobStatus }
export type JobStateName = JobStatus['state']

const finalStates: readonly JobStateName[] = ['succeeded', 'failed', 'cancelled', 'rejected']
export const jobStates: readonly JobStateName[] = ['queued', 'held', 'running', 'retrying', ...finalStates]

export function isFinal(status: JobStatus): boolean {
  return finalStates.includes(status.state)
}

const ulid = /^[0-9A-HJKMNP-TV-Z]{26}$/
/** What may be the beginning of a job id: long enough not to be a VM's name by accident. */
const ulidPrefix = /^[0-9A-HJKMNP-TV-Z]{6,26}$/

export function jobFolder(place: View, id: string): string {
  return join(place.layout.outputJobs, id)
}

/** The ids of all jobs that have a folder in output/jobs/, oldest first. */
export async function jobIds(place: View): Promise<string[]> {
  try {
    return (await readdir(place.layout.outputJobs)).filter((n) => ulid.test(n)).sort()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}

export async function statusOf(place: View, id: string): Promise<JobStatus | undefined> {
  return readJson<JobStatus>(join(jobFolder(place, id), 'status.json'))
}

/** The status of the last accepted job of an answer name. */
export async function statusOfName(place: View, name: string): Promise<JobStatus | undefined> {
  if (name.includes('/') || name.includes('\0') || name === '' || name.startsWith('.')) return undefined
  return readJson<JobStatus>(join(place.layout.output, `${name}.status.json`))
}

/** What somebody may mean by a word, and how. */
export interface Match {
  by: 'id' | 'name' | 'prefix'
  status: JobStatus
}

/**
 * A job by its id, by an unambiguous beginning of its id (6 characters or more), or by its answer name: then the last
 * accepted job of that name, or one that was run without an agent since. A batch is meant by its name, too, when no job of that name is there.
 * @throws ClientError 2 when nothing or more than one job is meant
 */
export async function findJob(place: View, which: string): Promise<JobStatus> {
  const match = await matching(place, which)
  if (match !== undefined) return match.status
  await requireSpool(place, 'read')
  throw noSuchJob([place], which)
}

/** @throws ClientError 2 when the beginning of an id is that of several */
export async function matching(place: View, which: string): Promise<Match | undefined> {
  const upper = which.toUpperCase()
  if (ulid.test(upper)) {
    const status = await settled(place, await statusOf(place, upper))
    if (status !== undefined) return { by: 'id', status }
  }
  const named = await newest([
    (await statusOfName(place, which)) ?? (await statusOfName(place, which + batchSuffix)),
    await directOfName(place, which),
  ])
  if (named !== undefined) return { by: 'name', status: named }
  if (ulidPrefix.test(upper)) {
    const ids = (await jobIds(place)).filter((id) => id.startsWith(upper))
    if (ids.length > 1) {
      throw new ClientError(
        2,
        `"${which}" is the beginning of ${ids.length} job ids (${ids.slice(0, 3).join(', ')}${ids.length > 3 ? ', …' : ''}). Write more of the one you mean.`,
      )
    }
    const status = ids.length === 1 ? await settled(place, await statusOf(place, ids[0]!)) : undefined
    if (status !== undefined) return { by: 'prefix', status }
  }
  return undefined
}

export function noSuchJob(all: readonly View[], which: string): ClientError {
  const where = all.map((p) => `${p.layout.output}`).join(' and ')
  return new ClientError(
    2,
    `There is no job "${which}" in the spool "${all[0]!.instance}" (${where}): neither a job's id, nor the beginning of one, nor the name of an answer. ` +
      'See `vmspool list` for the jobs there are.',
  )
}

function newest(some: readonly (JobStatus | undefined)[]): JobStatus | undefined {
  return some.filter((s) => s !== undefined).sort((a, b) => (a.id < b.id ? 1 : -1))[0]
}

/** The newest job of a name that runs or ran without an agent: those have no answer of that name, but their records' names tell. */
async function directOfName(place: View, name: string): Promise<JobStatus | undefined> {
  const mark = `-${keyOf(name)}-00000000~`
  const ids: string[] = []
  for (const dir of ['started', 'done', 'failed', 'cancelled'] as const) {
    const files = await readdir(place.layout[dir]).catch((error: NodeJS.ErrnoException) => {
      if (['EACCES', 'EPERM', 'ENOENT'].includes(String(error.code))) return []
      throw error
    })
    for (const file of files) if (file.includes(mark)) ids.push(file.slice(2, 28))
  }
  const last = ids.sort().at(-1)
  return last === undefined ? undefined : settled(place, await statusOf(place, last))
}

/**
 * A job without an agent whose shim was killed, or whose host went down, is settled by whoever comes to see it and may write; else the
 * status stays what it is.
 */
export async function settled(place: View, status: JobStatus | undefined): Promise<JobStatus | undefined> {
  if (status?.direct !== true || isFinal(status)) return status
  const { settleStarted } = await import('../spool/settle.ts')
  const { directFile } = await import('../spool/started.ts')
  const file = directFile(status.id, status.name)
  try {
    const path = join(place.layout.started, file)
    const over = await settleStarted(place.spool, { name: parseJobName(file)!, state: 'started', path })
    return over ? ((await statusOf(place, status.id)) ?? status) : status
  } catch (error) {
    if (['EACCES', 'EPERM', 'EROFS'].includes(String((error as NodeJS.ErrnoException).code))) return status
    throw error
  }
}

/** The end of a job's log that may be asked for. */
export function logPath(place: View, id: string): string {
  return join(jobFolder(place, id), 'log')
}

export interface ListFilter {
  states?: readonly JobStateName[]
  /** Ghost's states; beside `states`, either will do */
  words?: readonly GhostWord[]
  kind?: string
  name?: string
  /** the id of a batch: only its VMs */
  parent?: string
  /** at most this many, the newest */
  limit?: number
  /** called when there was no index to ask, with the number of jobs that were looked at instead (see indexAlong) */
  onUnindexed?: (jobs: number) => void
}

/** Statuses of jobs, newest first. Reads one small file per job it looks at, and with an index (docs/history.md) looks at few more than it returns. */
export async function listJobs(place: View, asked: ListFilter = {}): Promise<JobStatus[]> {
  const filter = asked.words === undefined ? asked : withWords(asked, asked.words)
  const { indexedJobs } = await import('./history.ts')
  const index = await indexedJobs(place, filter)
  if (index !== undefined) {
    try {
      const found = await listFrom(filter, index.candidates, (c) => statusOfCandidate(place, index, c))
      await index.close()
      return found
    } catch {
      await index.close().catch(() => {}) // a damaged index; the folders have everything
    }
  }
  const folders = await jobsInFolders(place)
  const all = [...new Set([...(await jobIds(place)), ...folders.keys()])].sort().reverse()
  // The ids of a batch's VMs all begin alike, so no other job need be read.
  const begin = filter.parent === undefined ? '' : childPrefix(filter.parent)
  const ids = all.filter((id) => id.startsWith(begin))
  const found = await listFrom(filter, ids.values(), (id) => currentStatus(place, id, folders.get(id)))
  asked.onUnindexed?.(all.length)
  return found
}

async function listFrom<T>(
  filter: Filter,
  candidates: Iterator<T>,
  status: (candidate: T) => Promise<JobStatus | undefined>,
): Promise<JobStatus[]> {
  const found: JobStatus[] = []
  const limit = filter.limit ?? Number.POSITIVE_INFINITY
  for (let ended = false; !ended && found.length < limit; ) {
    const batch: Promise<JobStatus | undefined>[] = []
    // Those that are shown first, then as many more as may be needed for those that do not match.
    const size = Math.max(8, Math.min(64, limit - found.length))
    while (batch.length < size && !ended) {
      const next = candidates.next()
      if (next.done) ended = true
      else batch.push(status(next.value))
    }
    for (const s of await Promise.all(batch)) {
      if (s !== undefined && found.length < limit && matches(s, filter)) found.push(s)
    }
  }
  return found
}

/** A finished job's status is its file; its record is asked only when that is not there, or does not say what the index says. */
async function statusOfCandidate(place: View, index: IndexedJobs, c: Candidate): Promise<JobStatus | undefined> {
  if (c.state === undefined) {
    // It may have ended since the folders were listed, and then its status says so: nothing but its publication writes a final one.
    const now = await statusOf(place, c.id)
    return now !== undefined && isFinal(now) ? now : currentStatus(place, c.id, c.job?.())
  }
  const text = await index.read(join(jobFolder(place, c.id), 'status.json'))
  const status = text === undefined ? undefined : (JSON.parse(text) as JobStatus)
  if (status?.state === c.state) return status
  const job = c.job?.()
  if (job === undefined || (await index.read(job.path)) === undefined) {
    if (status === undefined) index.gone(c.id)
    return status
  }
  return foldersStatus(place, job)
}

interface Filter extends ListFilter {
  is?(status: JobStatus): boolean
}

/** The index knows states; of those that come into question each job's status tells. */
function withWords(filter: ListFilter, words: readonly GhostWord[]): Filter {
  const states = filter.states ?? []
  return {
    ...filter,
    states: [...new Set([...states, ...words.flatMap((w) => statesOfWord[w])])],
    is(status) {
      const word = ghostWord(status)
      return states.includes(status.state) || (word !== undefined && words.includes(word))
    },
  }
}

function matches(status: JobStatus, filter: Filter): boolean {
  if (filter.states !== undefined && !filter.states.includes(status.state)) return false
  if (filter.is?.(status) === false) return false
  if (filter.kind !== undefined && status.kind !== filter.kind) return false
  if (filter.parent !== undefined && status.parent !== filter.parent) return false
  return filter.name === undefined || status.name === filter.name
}

async function foldersStatus(place: View, job: FoundJob): Promise<JobStatus> {
  const { statusOf } = await import('../spool/status.ts')
  const status = await statusOf(place.spool, job)
  return job.state === 'started' ? ((await settled(place, status)) ?? status) : status
}

async function currentStatus(place: View, id: string, job: FoundJob | undefined): Promise<JobStatus | undefined> {
  return job === undefined ? statusOf(place, id) : foldersStatus(place, job)
}

/** Where each job lies; empty for a client that may not read jobs/. */
async function jobsInFolders(place: View): Promise<Map<string, FoundJob>> {
  try {
    return new Map((await listFolders(place.spool)).map((job) => [job.name.id, job]))
  } catch (error) {
    if (['EACCES', 'EPERM', 'ENOENT'].includes(String((error as NodeJS.ErrnoException).code))) return new Map()
    throw error
  }
}

/** What the job left: its result file as the answer holds it; undefined when it has none (yet). */
export async function resultOf(place: View, status: JobStatus): Promise<Record<string, unknown> | undefined> {
  const file = `${status.name}.result.json`
  const own = [
    join(jobFolder(place, status.id), 'answer', file),
    join(jobFolder(place, status.id), 'result.json'),
    join(place.layout.output, file),
    join(place.layout.superseded, status.id, 'answer', file),
    join(place.layout.superseded, status.id, file),
  ]
  for (const path of own) {
    const result = await readJson<Record<string, unknown>>(path)
    if (result !== undefined && (result.id === undefined || result.id === status.id)) return result
  }
  return undefined
}

/** Why a job failed, as its `.error` says it. */
export async function errorTextOf(place: View, status: JobStatus): Promise<string | undefined> {
  const file = `${status.name}.error`
  const paths = [
    join(jobFolder(place, status.id), 'answer', file),
    join(place.layout.superseded, status.id, 'answer', file),
    join(place.layout.superseded, status.id, file),
    join(place.layout.output, file),
  ]
  const current = await statusOfName(place, status.name)
  for (const path of paths) {
    if (path.startsWith(join(place.layout.output, file)) && current?.id !== status.id) continue
    try {
      const handle = await open(path, 'r')
      try {
        return (await handle.readFile('utf8')).trim()
      } finally {
        await handle.close()
      }
    } catch (error) {
      if (!['ENOENT', 'ESTALE', 'ENOTDIR'].includes(errno(error))) throw error
    }
  }
  return undefined
}
