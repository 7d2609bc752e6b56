import { userInfo } from 'node:os'
import { requestCancel } from '../spool/control.ts'
import { ClientError } from './errors.ts'
import type { Place } from './place.ts'
import { findJob, isFinal, type JobStatus } from './status.ts'

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
  try {
    await requestCancel(place.spool, status.id, userName())
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code !== 'EACCES' && code !== 'EPERM') throw error
    throw new ClientError(
      77,
      `Cancelling needs write permission in ${place.layout.control} (${code}): ask for membership of the group that owns it.`,
      {
        cause: error,
      },
    )
  }
  return status
}

export function userName(): string {
  try {
    return userInfo().username
  } catch {
    return `uid ${process.getuid?.() ?? '?'}`
  }
}
