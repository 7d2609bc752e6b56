import { findJob as findInFolders, recordOf } from '../spool/find.ts'
import { keptAttempts } from '../spool/kept.ts'
import { ClientError } from './errors.ts'
import type { Place } from './place.ts'
import { repeatedBatch } from './retry-batch.ts'
import { findJob, isFinal, type JobStatus } from './status.ts'
import { dropManifest, type Submission } from './submit.ts'

/** Where a conversion can be begun again. */
export type RetryStep = 'inspect' | 'copy' | 'fix' | 'merge' | 'validate'

/**
 * Submits an ended job's manifest again. The old job stays what it is; the new one names it in `retry_of`, and goes on from what
 * that one had finished and kept.
 * @param o.from do this step and those after it again, whatever of them was finished
 * @throws ClientError 1 when the job has not ended, cannot be repeated, or kept nothing to start that step from; 2 when it has no such steps;
 *   77 when its record may not be read
 */
export async function retryJob(
  place: Place,
  job: string,
  o: { from?: RetryStep } = {},
): Promise<{ of: string; submission: Submission }> {
  const status = await findJob(place, job)
  if (!isFinal(status)) {
    throw new ClientError(
      1,
      `Job ${status.id} (${status.name}) has not ended (state: ${status.state}), so there is nothing to repeat. Cancel it first if it is stuck.`,
    )
  }
  if (status.direct)
    throw new ClientError(
      1,
      `Job ${status.id} (${status.name}) ran without an agent, and its variables are not all on record. Run it again the same way: vmspool rerun ${status.id}`,
    )
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
  if (o.from !== undefined) await checkFrom(place, status, record.kind, o.from)
  const own = record.manifest as Record<string, unknown>
  // Once more, now: its series goes on by itself.
  const {
    retry_from: _before,
    repeat: _repeat,
    not_before: _due,
    ...same
  } = record.kind === 'batch' ? await repeatedBatch(place, status, own) : own
  const manifest = { ...same, retry_of: status.id, ...(o.from === undefined ? {} : { retry_from: o.from }) }
  // A large batch is dropped as small as it can be: a manifest has its limit.
  const bytes = Buffer.from(`${JSON.stringify(manifest, null, record.kind === 'batch' ? 0 : 2)}\n`)
  const submission = await dropManifest(place, { bytes, fileName: `${status.name}-retry.json`, name: status.name })
  return { of: status.id, submission }
}

async function checkFrom(place: Place, status: JobStatus, kind: string, from: RetryStep): Promise<void> {
  if (kind !== 'convert') {
    throw new ClientError(2, `Job ${status.id} (${status.name}) is of kind ${kind} and has no steps: leave --from out.`)
  }
  if (from === 'inspect' || from === 'copy') return
  let kept: { dir: string }[]
  try {
    kept = await keptAttempts(place.spool, status.id)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code === 'EACCES' || code === 'EPERM') return // the agent will see
    throw error
  }
  if (kept.length > 0) return
  const why =
    status.state === 'failed'
      ? 'it failed before a disk was copied, its retention has passed, or another retry has gone on from it and succeeded'
      : `only a failed job keeps its work, and this one is ${status.state}`
  throw new ClientError(
    1,
    `Job ${status.id} (${status.name}) has kept no finished work to start "${from}" from: ${why}. Without --from its disks are copied again.`,
  )
}

/** @throws ClientError 1 when the record is gone, 77 when it may not be read */
export async function recordOfJob(
  place: Place,
  id: string,
): Promise<NonNullable<Awaited<ReturnType<typeof recordOf>>>> {
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
