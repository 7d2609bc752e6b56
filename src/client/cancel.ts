import { readdir, stat } from 'node:fs/promises'
import { userInfo } from 'node:os'
import { requestCancel } from '../spool/control.ts'
import { ClientError } from './errors.ts'
import { pause } from './liveness.ts'
import type { Place } from './place.ts'
import { findJob, isFinal, type JobStatus, statusOf } from './status.ts'

/**
 * Asks for a job to be cancelled and returns where it stands now. The request is durable: it is carried out as soon as an
 * agent sees it, also after a restart. A job that commits first has ended as what it committed.
 * @throws ClientError 1 when the job has ended already, 2 when there is no such job, 77 when control/ may not be written
 */
export async function cancelJob(place: Place, job: string): Promise<JobStatus> {
  const status = await findJob(place, job)
  if (isFinal(status)) {
    throw new ClientError(
      1,
      `Job ${status.id} (${status.name}) has ended already: ${status.state}. There is nothing to cancel.`,
    )
  }
  if (status.direct)
    throw new ClientError(
      1,
      `Job ${status.id} (${status.name}) runs without an agent, so nobody would carry out a request. Stop it: vmspool stop ${status.id}`,
    )
  await askToCancel(place, status)
  return status
}

/** How long an agent that lives may take to refuse, in ms: it looks once a second. */
const REFUSED_WITHIN_MS = 2500

/**
 * Leaves the request. An agent carries it out for whoever dropped the job, root, and members of its group; for others it removes it,
 * which they are told here.
 * @throws ClientError 77 when control/ may not be written, or the request was refused
 */
export async function askToCancel(place: Place, status: JobStatus, o: { force?: boolean } = {}): Promise<void> {
  const { control } = place.layout
  try {
    await requestCancel(place.spool, status.id, userName(), o)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code !== 'EACCES' && code !== 'EPERM') throw error
    throw new ClientError(
      77,
      `Cancelling needs write permission in ${control} (${code}): ask for membership of the group that owns it.`,
      {
        cause: error,
      },
    )
  }
  const uid = process.geteuid?.()
  if (uid === 0 || uid === (await stat(control)).uid) return
  const until = performance.now() + REFUSED_WITHIN_MS
  while (performance.now() < until) {
    const now = await statusOf(place, status.id)
    if (now === undefined || isFinal(now)) return
    const asked = await readdir(control).catch(() => undefined)
    if (asked === undefined) return
    if (!asked.includes(`cancel-${status.id}.json`)) {
      // A request that was carried out is removed, too, once its job is seen final.
      const after = await statusOf(place, status.id)
      if (after === undefined || isFinal(after)) return
      throw new ClientError(
        77,
        `The agent refused to cancel job ${status.id} (${status.name}) for ${userName()}: it was dropped by somebody else. Ask them, an administrator, or for membership of the group that the agent runs as.`,
      )
    }
    await pause(100)
  }
}

export function userName(): string {
  try {
    return userInfo().username
  } catch {
    return `uid ${process.getuid?.() ?? '?'}`
  }
}
