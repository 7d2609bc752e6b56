/** Removing jobs that are over, by hand; what an agent's retention does by itself. */
import { join } from 'node:path'
import { errno } from '../spool/errors.ts'
import { namesIn } from '../spool/moves.ts'
import { OUTCOMES, parseJobName, ulidTime } from '../spool/names.ts'
import { childrenNeeded, finishedAt, removeJob, tellRemoved } from '../spool/remove.ts'
import { statusOf as foldersStatus } from '../spool/status.ts'
import { ClientError } from './errors.ts'
import type { Place } from './place.ts'
import type { JobStatus } from './status.ts'

export interface CleanupOptions {
  /** only jobs that ended longer ago than this, in ms; without it all */
  olderMs?: number
  /** which of those that are over; without it all */
  which?(status: JobStatus): boolean
  /** change nothing */
  dryRun?: boolean
}

/**
 * Removes records, logs and results by id of jobs that are over. Public answers stay, and so do the jobs of a batch that is not over.
 * @returns what was removed, or would be, oldest first, and how many more are still needed by a batch
 * @throws ClientError 77 when the spool may not be written
 */
export async function cleanup(place: Place, o: CleanupOptions = {}): Promise<{ jobs: JobStatus[]; needed: number }> {
  const { spool } = place
  const neededBy = childrenNeeded(spool)
  const jobs: JobStatus[] = []
  const removed: string[] = []
  let needed = 0
  const oldest = o.olderMs === undefined ? Number.POSITIVE_INFINITY : spool.clock.now() - o.olderMs
  try {
    for (const outcome of OUTCOMES) {
      for (const file of (await namesIn(spool, place.layout[outcome])).sort()) {
        const name = parseJobName(file)
        if (!name || ulidTime(name.id) > oldest || (await finishedAt(spool, name.id)) > oldest) continue
        const path = join(place.layout[outcome], file)
        const status = await foldersStatus(spool, { name, state: outcome, path })
        if (o.which?.(status) === false) continue
        if (await neededBy(name.id)) {
          needed += 1
          continue
        }
        if (!o.dryRun) {
          await removeJob(spool, path, name.id)
          removed.push(name.id)
        }
        jobs.push(status)
      }
    }
  } catch (error) {
    if (!['EACCES', 'EPERM', 'EROFS'].includes(errno(error))) throw error
    throw new ClientError(
      77,
      `Jobs of the spool "${place.instance}" cannot be removed: ${(error as NodeJS.ErrnoException).path ?? place.layout.jobs} may not be written by this user (${errno(error)}). Do it as the agent's user or as root.`,
      { cause: error },
    )
  } finally {
    if (removed.length > 0) await tellRemoved(spool, removed)
  }
  return { jobs: jobs.sort((a, b) => (a.id < b.id ? -1 : 1)), needed }
}
