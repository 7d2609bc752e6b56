/** The functions of the library: a spool is named with each call, everything behind them is loaded when first called. */
import type { Manifest } from '../manifest/index.ts'
import type { JobStatus } from '../spool/index.ts'
import type { ControlCommand, ControlReply } from './control.ts'
import type { LogOptions } from './logs.ts'
import type { SpoolPlace } from './place.ts'
import type { RetryStep } from './retry.ts'
import type { ListFilter } from './status.ts'
import type { Submission } from './submit.ts'
import type { VmAction, VmFields } from './vm-manifest.ts'
import type { VmQuery, VmView } from './vms.ts'
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

export interface CommandOptions {
  /** default: ours */
  cwd?: string
  /** added to our environment; values of names that look like secrets reach the command and are stored nowhere */
  env?: Readonly<Record<string, string>>
  /** answer name; default: the program's */
  name?: string
  timeoutMs?: number
  /** default SIGTERM */
  killSignal?: string
  killGraceMs?: number
  /** exit codes that count as success; default 0 */
  expected?: readonly number[]
  /** path; default /dev/null */
  stdin?: string
  /** false: the record need not survive a power loss */
  fsync?: boolean
}

/**
 * Starts a command without an agent, in a session of its own, and returns its status (with its `pid`) as soon as it runs. It goes on
 * when we end; its output is in a log, its end is on record.
 * @throws ClientError 1 when it cannot be started, 73 or 77 when the spool cannot be made or written
 */
export async function run(argv: readonly string[], options: SpoolPlace & CommandOptions = {}): Promise<JobStatus> {
  const { runPlace } = await import('./run-place.ts')
  const { startRun } = await import('./run.ts')
  const { ClientError } = await import('./errors.ts')
  if (!argv[0]) throw new ClientError(2, 'There is no command to run: its first word is empty.')
  const { timeoutMs, killSignal, killGraceMs, instance: _i, root: _r, config: _c, ...same } = options
  const { status, failed } = await startRun(await runPlace(options), argv, {
    ...same,
    ...(timeoutMs === undefined ? {} : { timeout_ms: timeoutMs }),
    ...(killSignal === undefined ? {} : { kill_signal: killSignal }),
    ...(killGraceMs === undefined ? {} : { kill_grace_ms: killGraceMs }),
  })
  if (failed !== undefined) throw new ClientError(1, failed)
  return status
}

/**
 * Ends a job and returns its last status when nothing of it runs any more: TERM, and KILL after a grace, to all that it started.
 * @throws ClientError 1 when it does not run, 69 when only an agent or another host can end it and none is alive, 77 not ours
 */
export async function stop(
  job: string,
  options: SpoolPlace & { force?: boolean; graceMs?: number; signal?: AbortSignal } = {},
): Promise<JobStatus> {
  const { locate } = await import('./place.ts')
  const { findJob } = await import('./status.ts')
  const { stopJob } = await import('./stop.ts')
  const { ClientError } = await import('./errors.ts')
  const at = await locate(options)
  const { status, pending } = await stopJob(at, await findJob(at, job), options)
  if (pending !== undefined) throw new ClientError(69, pending)
  return status
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

/**
 * Submits a job that creates, starts, stops, restarts or deletes a VM. For what is there already its host is seen to by itself.
 * @param fields the other fields of the manifest (docs/manifests.md): for create at least `vm`
 * @throws ManifestError (exitCode 65), ClientError 2 there is no such VM, 73 no such spool, 77 no permission, 74 I/O
 */
export async function vm(
  action: VmAction,
  name: string,
  fields: VmFields = {},
  place: SpoolPlace = {},
): Promise<Submission> {
  const { locate } = await import('./place.ts')
  const { hostOf, vmJob } = await import('./vm-manifest.ts')
  const { findVm, vmsOf } = await import('./vms.ts')
  const { dropManifest } = await import('./submit.ts')
  const at = await locate(place)
  if (action === 'create') return dropManifest(at, vmJob(action, name, fields))
  const known = findVm(at, (await vmsOf(at, { live: false })).vms, name)
  const hosts = await hostOf(at, known)
  return dropManifest(at, vmJob(action, known.name, { ...(hosts === undefined ? {} : { hosts }), ...fields }))
}

/** The VMs of an instance, with their states from libvirt where this process may ask it (`live`, default true). */
export async function vms(options: SpoolPlace & VmQuery = {}): Promise<VmView[]> {
  const { locate } = await import('./place.ts')
  const { vmsOf } = await import('./vms.ts')
  const { instance: _i, root: _r, config: _c, ...query } = options
  return (await vmsOf(await locate(options), query)).vms
}
