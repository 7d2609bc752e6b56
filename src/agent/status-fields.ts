/** The status of a job from what its name and record say. */
import { type Claim, familyFields, type JobName, type JobRecord, type JobStatus } from '../spool/index.ts'

export function baseStatus(name: JobName, record: JobRecord): Omit<JobStatus, 'state' | 'since'> {
  return {
    schema: 1,
    id: name.id,
    name: record.answer,
    kind: record.kind,
    attempt: name.failures + name.crashes + 1,
    epoch: name.epoch,
    priority: name.priority,
    accepted_at: record.drop.at,
    drop_file: record.drop.file,
    ...familyFields(record),
    ...(record.manifest.group === undefined ? {} : { group: record.manifest.group }),
    ...commandFields(record),
  }
}

/** A status is read often and whole: of a very long command its beginning must do. */
const WORDS = 64
const WORD_CHARS = 512

function commandFields(record: JobRecord): Pick<JobStatus, 'command' | 'cwd'> {
  if (record.manifest.kind !== 'command' || record.rejected) return {}
  const { argv, cwd } = record.manifest.command as { argv?: string[]; cwd?: string }
  const clipped = argv?.slice(0, WORDS).map((w) => (w.length > WORD_CHARS ? `${w.slice(0, WORD_CHARS)}…` : w))
  if (clipped && argv && argv.length > WORDS) clipped.push('…')
  return { ...(clipped ? { command: clipped } : {}), ...(cwd === undefined ? {} : { cwd }) }
}

export function claimStatus(c: Claim): Omit<JobStatus, 'state' | 'since'> {
  return baseStatus(c.name, c.record)
}

export const iso = (ms: number = Date.now()): string => new Date(ms).toISOString()
