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
  }
}

export function claimStatus(c: Claim): Omit<JobStatus, 'state' | 'since'> {
  return baseStatus(c.name, c.record)
}

export const iso = (ms: number = Date.now()): string => new Date(ms).toISOString()
