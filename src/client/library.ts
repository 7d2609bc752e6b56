/** The functions of the library: a spool is named with each call, everything behind them is loaded when first called. */
import type { Manifest } from '../manifest/index.ts'
import type { JobStatus } from '../spool/index.ts'
import type { ControlCommand, ControlReply } from './control.ts'
import type { LogOptions } from './logs.ts'
import type { SpoolPlace } from './place.ts'
import type { RetryStep } from './retry.ts'
import type { ListFilter } from './status.ts'
import type { Submission } from './submit.ts'
import type { WaitOptions } from './wait.ts'

export const defaultInstance = 'default'

/**
 * Checks a manifest and drops it into the queue. What this returns for survives a power loss.
 * @param what a manifest as an object, or the path of a manifest, disk, OVA or OVF (which is read where it lies)
 * @throws ManifestError (exitCode 65) with all diagnostics, ClientError 73 no such spool, 77 no permission, 74 I/O
 */
export async function submit(what: string | object, place: SpoolPlace = {}): Promise<Submission> {
  const { locate } = await import('./place.ts')
  const { diskManifest, isDiskFile, prepareBytes, prepareManifest } = await import('./manifest-files.ts')
  const { dropManifest } = await import('./submit.ts')
  const at = await locate(place)
  const prepared =
    typeof what !== 'string'
      ? prepareBytes(Buffer.from(`${JSON.stringify(what, null, 2)}\n`), 'manifest.json', process.cwd())
      : isDiskFile(what)
        ? await diskManifest(what)
        : await prepareManifest(what)
  return dropManifest(at, prepared)
}

/**
 * Waits until the job has ended and returns its last status, whatever the outcome: look at `state`.
 * @param job what submit() returned, or a job id, the beginning of one, or an answer name
 * @throws ClientError 124 timed out, 130 aborted, 69 no agent alive for `agentGraceMs`; the job goes on in all three
 */
export async function wait(job: string | Submission, options: SpoolPlace & WaitOptions = {}): Promise<JobStatus> {
  const { locate } = await import('./place.ts')
  const { findJob } = await import('./status.ts')
  const { waitForJob } = await import('./wait.ts')
  const at = await locate(options)
  return waitForJob(at, typeof job === 'string' ? (await findJob(at, job)).id : job, options)
}

/** Asks for a job to be cancelled; durable. Returns where the job stood. What it ends as is decided by its commit. */
export async function cancel(job: string, place: SpoolPlace = {}): Promise<JobStatus> {
  const { locate } = await import('./place.ts')
  const { cancelJob } = await import('./cancel.ts')
  return cancelJob(await locate(place), job)
}

/** Where a job stands. @throws ClientError 2 when there is no such job, or more than one is meant */
export async function status(job: string, place: SpoolPlace = {}): Promise<JobStatus> {
  const { locate } = await import('./place.ts')
  const { findJob } = await import('./status.ts')
  return findJob(await locate(place), job)
}

/** Jobs, newest first. */
export async function list(filter: SpoolPlace & ListFilter = {}): Promise<JobStatus[]> {
  const { locate, requireSpool } = await import('./place.ts')
  const { listJobs } = await import('./status.ts')
  const { instance: _i, root: _r, config: _c, ...rest } = filter
  const at = await locate(filter)
  await requireSpool(at, 'read')
  return listJobs(at, rest)
}

/** The result file of a job that has ended: artifacts with sizes and checksums, phases, error. */
export async function result(job: string, place: SpoolPlace = {}): Promise<Record<string, unknown> | undefined> {
  const { locate } = await import('./place.ts')
  const { findJob, resultOf } = await import('./status.ts')
  const at = await locate(place)
  return resultOf(at, await findJob(at, job))
}

/** Copies what a job made into a folder (cloned where possible), each file whole or not at all. Returns the paths. */
export async function fetchResult(
  job: string,
  dir: string,
  options: SpoolPlace & { signal?: AbortSignal } = {},
): Promise<string[]> {
  const { locate } = await import('./place.ts')
  const { fetchAnswer } = await import('./fetch.ts')
  const { findJob } = await import('./status.ts')
  const at = await locate(options)
  return fetchAnswer(at, await findJob(at, job), dir, options)
}

/**
 * A job's log; with `follow` until the job has ended. What its programs wrote comes byte for byte, the lines of vmspool in
 * between, unless `stream` asks for one alone; `raw`: the files of the log as they are; `json`: one object a line.
 */
export async function* logs(job: string, options: SpoolPlace & LogOptions = {}): AsyncGenerator<Buffer> {
  const { locate } = await import('./place.ts')
  const { findJob } = await import('./status.ts')
  const { readLog } = await import('./logs.ts')
  const at = await locate(options)
  yield* readLog(at, (await findJob(at, job)).id, options)
}

/**
 * Submits an ended job's manifest again, as a new job that names the old one in `retry_of`.
 * @param options.from begin with this step; default: with the first that was not finished
 */
export async function retry(job: string, options: SpoolPlace & { from?: RetryStep } = {}): Promise<Submission> {
  const { locate } = await import('./place.ts')
  const { retryJob } = await import('./retry.ts')
  const { from, ...place } = options
  return (await retryJob(await locate(place), job, from === undefined ? {} : { from })).submission
}

/** One command to the control socket of the instance's main agent on this host. @throws ClientError 69 when none listens */
export async function control(command: ControlCommand, place: SpoolPlace = {}): Promise<ControlReply> {
  const { locate } = await import('./place.ts')
  const socket = await import('./control.ts')
  return socket.control(await locate(place), command)
}

/** The manifest that converts one disk, OVA or OVF: what `submit(path)` drops, for programs that want to add to it. */
export async function convertManifest(
  path: string,
  o: { name?: string; format?: string; compress?: boolean } = {},
): Promise<Manifest> {
  const { diskManifest } = await import('./manifest-files.ts')
  return (await diskManifest(path, o)).manifest
}
