/**
 * The spool: a directory as a reliable work queue (docs/spool.md). The only code that touches spool files.
 *
 * Glossary. Drop: a file that a client put into queue/. Owner: one agent process, under an id that is never used again. Lease:
 * an owner's sign of life. Job: one file, whose folder is its state and whose name is its history. Epoch: the number of an
 * attempt, never used twice. Answer: the public files of a job, under the answer name. Lane: all jobs of one answer name.
 * Ticket: a job's place in its lane, the order of acceptance. Commit: the rename that decides an outcome. Publish: moving
 * the answer to where clients look.
 */
export type { Accepted } from './accept.ts'
export { tidyOld } from './answers.ts'
export {
  type Claim,
  type ClaimResult,
  claim,
  giveBack,
  openClaim,
  promoteDue,
  retry,
  stillOurs,
} from './attempt.ts'
export { type CommitContent, commit } from './commit.ts'
export { type CancelRequest, cancelRequests, isPaused, processCancels, requestCancel, setPaused } from './control.ts'
export { drop } from './drop.ts'
export { errno, SpoolError } from './errors.ts'
export { appendEvent, type SpoolEvent } from './events.ts'
export { FINAL_STATES, type FoundJob, findJob, JOB_STATES, type JobState, listJobs, recordOf } from './find.ts'
export { type FsckReport, fsck, type Problem } from './fsck.ts'
export { commitRejection } from './finish.ts'
export { type IntakeRound, takeAndAccept } from './intake.ts'
export type { DropInspection, IntakeOptions, IntakeSettings } from './intake-options.ts'
export { type Layout, layoutOf } from './layout.ts'
export { type JobName, keyOf, type Outcome, parseJobName, ULID, ulidTime } from './names.ts'
export { deadOwners, heartbeat, type Lease, readOwners, startOwner, stopOwner, thisProcess } from './owner.ts'
export { makePlan, type Plan } from './plan.ts'
export { type Published, publishCommitted } from './publish.ts'
export { type Reaped, reapDead } from './reap.ts'
export { type DropInfo, type JobRecord, readRecord } from './record.ts'
export { type Retention, retain } from './retain.ts'
export type { JobStatus } from './schema.ts'
export { isNetworkFs, openSpool, type Spool, type SpoolClock, type SpoolLog, type SpoolOptions } from './spool.ts'
export { readStatus, stateFromFolder, statusOf, sweepStatus, writeStatus } from './status.ts'
export { readLane } from './ticket.ts'
