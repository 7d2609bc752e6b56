import { findJob as findInFolders, recordOf } from '../spool/find.ts'
import { ClientError } from './errors.ts'
import type { Place } from './place.ts'
import { findJob, isFinal } from './status.ts'
import { dropManifest, type Submission } from './submit.ts'

/**
 * Submits an ended job's manifest again. The old job stays what it is; the new one names it in `retry_of`.
 * @throws ClientError 1 when the job has not ended or cannot be repeated, 77 when its record may not be read
 */
export async function retryJob(place: Place, job: string): Promise<{ of: string; submission: Submission }> {
  const status = await findJob(place, job)
  if (!isFinal(status)) {
    throw new ClientError(
      1,
      `Job ${status.id} (${status.name}) has not ended (state: ${status.state}), so there is nothing to repeat. Cancel it first if it is stuck.`,
    )
  }
  if (status.state === 'rejected') {
    throw new ClientError(
      65,
      `Job ${status.id} (${status.name}) was rejected: its manifest would be rejected again. Correct it (vmspool check FILE) and submit the corrected file.`,
    )
  }
  const record = await recordOfJob(place, status.id)
  if (record.payload !== undefined && record.payload.length > 0) {
    throw new ClientError(
      1,
      `Job ${status.id} (${status.name}) was a disk that was dropped itself, not a manifest. It lies in ${place.layout.queue}/.errors/ when the job failed: drop it again, or convert it with vmspool convert.`,
    )
  }
  const manifest = { ...(record.manifest as Record<string, unknown>), retry_of: status.id }
  const bytes = Buffer.from(`${JSON.stringify(manifest, null, 2)}\n`)
  const submission = await dropManifest(place, { bytes, fileName: `${status.name}-retry.json`, name: status.name })
  return { of: status.id, submission }
}

async function recordOfJob(place: Place, id: string): Promise<NonNullable<Awaited<ReturnType<typeof recordOf>>>> {
  try {
    const [found] = await findInFolders(place.spool, id)
    const record = found === undefined ? undefined : await recordOf(place.spool, found)
    if (record !== undefined) return record
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code !== 'EACCES' && code !== 'EPERM') throw error
    throw new ClientError(
      77,
      `The manifest of job ${id} lies in ${place.layout.jobs}, which only the agent's user and group may read (${code}). Submit the manifest file itself again.`,
      {
        cause: error,
      },
    )
  }
  throw new ClientError(
    1,
    `The record of job ${id} is gone: its retention time has passed. Submit the manifest file itself again.`,
  )
}
