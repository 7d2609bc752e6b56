/** Reading a spool: which jobs there are and where. For views; nothing here changes anything. */
import { join } from 'node:path'
import { errno } from './errors.ts'
import { namesIn } from './moves.ts'
import { type JobName, keyOf, parseJobName } from './names.ts'
import { type JobRecord, readRecord } from './record.ts'
import type { Spool } from './spool.ts'

export type JobState =
  | 'new'
  | 'held'
  | 'claimed'
  | 'started'
  | 'committed'
  | 'done'
  | 'failed'
  | 'cancelled'
  | 'rejected'
const JOB_STATES: readonly JobState[] = [
  'new',
  'held',
  'claimed',
  'started',
  'committed',
  'done',
  'failed',
  'cancelled',
  'rejected',
]

/** States that are never left again. */
export const FINAL_STATES: ReadonlySet<JobState> = new Set(['done', 'failed', 'cancelled', 'rejected'])

export interface FoundJob {
  name: JobName
  state: JobState
  /** who runs it, for a claimed one */
  owner?: string
  path: string
}

/** All jobs in the given states, in dispatch order within each. */
export async function listJobs(
  s: Spool,
  f: { states?: readonly JobState[]; limit?: number } = {},
): Promise<FoundJob[]> {
  const out: FoundJob[] = []
  for (const state of f.states ?? JOB_STATES) {
    for (const [folder, owner] of await foldersOf(s, state)) {
      for (const file of (await namesIn(s, folder)).sort()) {
        const name = parseJobName(file)
        if (!name) continue
        out.push({ name, state, path: join(folder, file), ...(owner ? { owner } : {}) })
        if (f.limit !== undefined && out.length >= f.limit) return out
      }
    }
  }
  return out
}

/**
 * Where these jobs are. One pass over the folders that makes nothing of the names it does not want: a million waiting jobs
 * cost a listing, not a million objects.
 */
export async function locate(s: Spool, wanted: ReadonlySet<string>): Promise<Map<string, FoundJob>> {
  const out = new Map<string, FoundJob>()
  if (wanted.size === 0) return out
  for (const state of JOB_STATES) {
    for (const [folder, owner] of await foldersOf(s, state)) {
      for (const file of await namesIn(s, folder)) {
        const at = state === 'held' ? 16 : 2 // `<due>-<priority>-<id>` or `<priority>-<id>`
        if (!wanted.has(file.slice(at, at + 26))) continue
        const name = parseJobName(file)
        if (name) out.set(name.id, { name, state, path: join(folder, file), ...(owner ? { owner } : {}) })
      }
    }
  }
  return out
}

async function foldersOf(s: Spool, state: JobState): Promise<[string, string | undefined][]> {
  if (state !== 'claimed') return [[s.layout[state], undefined]]
  return (await namesIn(s, s.layout.claimed)).map((owner) => [join(s.layout.claimed, owner), owner])
}

/**
 * Jobs by id, by a prefix of it (4 characters or more), or by answer name. A job can move while we look, so a job found in two
 * states is reported in the later one, and a look that found nothing is repeated once.
 */
export async function findJob(s: Spool, what: string): Promise<FoundJob[]> {
  const key = keyOf(what)
  const prefix = what.toUpperCase()
  const byId = /^[0-9A-HJKMNP-TV-Z]{4,26}$/.test(prefix)
  for (let round = 0; round < 2; round++) {
    const found = new Map<string, FoundJob>()
    for (const job of await listJobs(s)) {
      if ((byId && job.name.id.startsWith(prefix)) || job.name.key === key) found.set(job.name.id, job)
    }
    if (found.size > 0) {
      const exact = found.get(prefix)
      return exact ? [exact] : [...found.values()].sort((a, b) => (a.name.id < b.name.id ? -1 : 1))
    }
  }
  return []
}

/** The record of a found job; looks again when the job moved meanwhile. */
export async function recordOf(s: Spool, job: FoundJob): Promise<JobRecord | undefined> {
  try {
    return await readRecord(s, job.path)
  } catch (error) {
    if (errno(error) !== 'ENOENT') throw error
    const [again] = await findJob(s, job.name.id)
    return again && again.path !== job.path ? readRecord(s, again.path) : undefined
  }
}
