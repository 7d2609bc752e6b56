/**
 * The spool: a directory as a reliable work queue (docs/spool.md). The only code that touches spool files.
 *
 * Glossary. Drop: a file that a client put into queue/. Owner: one agent process, under an id that is never used again. Lease:
 * an owner's sign of life. Job: one file, whose folder is its state and whose name is its history. Epoch: the number of an
 * attempt, never used twice. Answer: the public files of a job, under the answer name. Lane: all jobs of one answer name.
 * Ticket: a job's place in its lane, the order of acceptance. Commit: the rename that decides an outcome. Publish: moving
 * the answer to where clients look.
 */
export { type Accepted, notBefore } from './accept.ts'
export { acceptRecords } from './accept-records.ts'
export {
  type Dependency,
  dependenciesOf,
  dependenciesText,
  endDecided,
  endWaiting,
  notedMet,
  noteMet,
  releaseWaiting,
  type Unrun,
} from './after.ts'
export { tidyOld } from './answers.ts'
export {
  type Claim,
  claim,
  giveBack,
  openClaim,
  retry,
} from './attempt.ts'
export { existingJobs } from './children.ts'
export { commit } from './commit.ts'
export { requireOwnSpool } from './belongs.ts'
export { cancelRequests, isPaused, processCancels, requestCancel, setPaused } from './control.ts'
export { drop } from './drop.ts'
export { errno } from './errors.ts'
export { rotateEvents } from './event-rotation.ts'
export { appendEvent, endOfEvents, type EventsPosition, readEvents, type SpoolEvent } from './events.ts'
export { FINAL_STATES, findJob, listJobs, locate } from './find.ts'
export { type FsckReport, fsck } from './fsck.ts'
export { commitRejection } from './finish.ts'
export { takeAndAccept } from './intake.ts'
export { type HeldNames, heldNames, promoteDue } from './held.ts'
export type { IntakeOptions } from './intake-options.ts'
export { type Kept, keptAttempts } from './kept.ts'
export { type Layout, layoutOf } from './layout.ts'
export { childPrefix, childUlid, type JobName, keyOf, type Outcome, parseJobName, ULID } from './names.ts'
export { crowdedLanes, jobsNamed, type NamedJob, oldestUnaccepted, unfinishedOf } from './named.ts'
export { heartbeat, type Lease, readOwners, startOwner, stopOwner, thisProcess } from './owner.ts'
export { makePlan, type Plan } from './plan.ts'
export { publishCommitted } from './publish.ts'
export { reapDead } from './reap.ts'
export { familyFields, type JobRecord, readRecord } from './record.ts'
export { retain } from './retain.ts'
export type { Counts, JobStatus } from './schema.ts'
export { settleAllStarted } from './settle.ts'
export type { SpoolFs } from './fs.ts'
export { openSpool, type Spool } from './spool.ts'
export { heldFor, statusOf, sweepStatus, writeStatus } from './status.ts'
export { fixSuccessor, readSuccessor } from './successor.ts'
