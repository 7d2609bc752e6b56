/** The status of a job from what its name and record say. */
import { clipWords } from '../text/words.ts'
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

function commandFields(record: JobRecord): Pick<JobStatus, 'command' | 'cwd'> {
  if (record.manifest.kind !== 'command' || record.rejected) return {}
  const { argv, cwd } = record.manifest.command as { argv?: string[]; cwd?: string }
  return { ...(argv ? { command: clipWords(argv) } : {}), ...(cwd === undefined ? {} : { cwd }) }
}

export function claimStatus(c: Claim): Omit<JobStatus, 'state' | 'since'> {
  return baseStatus(c.name, c.record)
}

export const iso = (ms: number = Date.now()): string => new Date(ms).toISOString()
