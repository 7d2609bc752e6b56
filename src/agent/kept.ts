/** Finished work across jobs: what a failed one keeps, and what a job that repeats one starts from. */
import type { Step } from '../convert/index.ts'
import type { EarlierAttempt } from '../jobs/types.ts'
import { type Claim, type Kept, keptAttempts } from '../spool/index.ts'
import type { Agent } from './state.ts'
import { iso } from './status-fields.ts'
import type { Failure } from './verdict.ts'

/** The first step whose earlier artefacts are not to be used; undefined: all may be. */
const BEFORE: Record<string, Step | undefined> = {
  inspect: 'unpack',
  copy: 'copy',
  fix: 'fix',
  merge: 'merge',
  validate: 'define',
}

/**
 * What the job that this one repeats has kept. The two run under one answer name, and jobs of one name run one after the other, so no two
 * retries take from one folder at once; a stalled attempt that lost its job may, and finds that a file was moved away.
 */
export async function keptFor(a: Agent, claim: Claim): Promise<EarlierAttempt[]> {
  const { record } = claim
  if (record.retry_of === undefined || record.kind !== 'convert') return []
  const before = BEFORE[String((record.manifest as { retry_from?: unknown }).retry_from)]
  const found = await keptAttempts(a.spool, record.retry_of)
  return found.map((e) => ({
    ...e,
    dead: true,
    kept: { of: record.retry_of!, ...(before === undefined ? {} : { before }) },
  }))
}

/** For the commit of a failed job: what is kept until when, and how to go on; nothing when there is nothing. */
export function keeping(
  a: Agent,
  claim: Claim,
  f: Failure | undefined,
): { keep: Kept; sentence: string; result: Record<string, unknown> } | undefined {
  if (!f?.kept) return undefined
  const { steps, bytes } = f.kept
  const age = a.config.retention.failed
  const until = age > 0 ? iso(Date.now() + age) : undefined
  const id = claim.name.id
  return {
    keep: { steps, bytes },
    sentence: `What was finished (${steps.join(', ')}; ${bytes} bytes) is kept${until === undefined ? '' : ` until ${until}`}: "vmspool retry ${id}" goes on from there, "vmspool retry --from copy ${id}" starts over.`,
    result: { kept: { steps, bytes, ...(until === undefined ? {} : { until }) } },
  }
}
