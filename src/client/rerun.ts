/** Running an ended job again. One without an agent becomes another without an agent; every other is submitted again (see retry.ts). */
import type { CommandManifest } from '../manifest/index.ts'
import { ClientError } from './errors.ts'
import type { Place } from './place.ts'
import { recordOfJob, retryJob } from './retry.ts'
import { type RunOptions, type StartedRun, startRun } from './run.ts'
import { withExtras } from './run-extras.ts'
import { runPlace } from './run-place.ts'
import { isFinal, type JobStatus } from './status.ts'
import type { Submission } from './submit.ts'

/**
 * @param env variables that are added, or take the place of what the job had; only for a job without an agent
 * @throws ClientError 1 when it runs still, 2 when a secret that it had is neither given nor set here, or `env` is given for a job of an agent
 */
export async function rerunJob(
  place: Place,
  status: JobStatus,
  o: { env?: Readonly<Record<string, string>>; fsync?: boolean; onWarning?(text: string): void } = {},
): Promise<{ started: StartedRun } | { submission: Submission }> {
  if (!status.direct) {
    if (o.env !== undefined)
      throw new ClientError(
        2,
        `Job ${status.id} (${status.name}) belongs to an agent, which runs its manifest again as it is: leave -e out, or submit a manifest with other variables.`,
      )
    return { submission: (await retryJob(place, status.id)).submission }
  }
  if (!isFinal(status))
    throw new ClientError(
      1,
      `Job ${status.id} (${status.name}) still runs (PID ${status.pid ?? '?'}). Stop it first: vmspool stop ${status.id}`,
    )
  const record = await recordOfJob(place, status.id)
  const { command: c, timeout_ms } = record.manifest as CommandManifest
  const env = {
    ...(c.env as Record<string, string> | undefined),
    ...secrets(status, c.secret_env ?? [], o.env),
    ...o.env,
  }
  const files = c.env_file === undefined ? [] : typeof c.env_file === 'string' ? [c.env_file] : c.env_file
  const options: RunOptions = {
    name: record.answer,
    retry_of: status.id,
    ...(c.cwd === undefined ? {} : { cwd: c.cwd }),
    ...(Object.keys(env).length === 0 ? {} : { env }),
    ...(files.length === 0 ? {} : { env_files: files }),
    ...(timeout_ms === undefined ? {} : { timeout_ms }),
    ...(c.kill_signal === undefined ? {} : { kill_signal: c.kill_signal }),
    ...(c.kill_grace_ms === undefined ? {} : { kill_grace_ms: c.kill_grace_ms }),
    ...(c.expected_exit_codes === undefined ? {} : { expected: c.expected_exit_codes }),
    ...(c.stdin_file === undefined ? {} : { stdin: c.stdin_file }),
    ...(c.limits === undefined ? {} : { limits: c.limits }),
    ...(o.fsync === undefined ? {} : { fsync: o.fsync }),
  }
  const { root, instance } = place.layout
  const at = { ...(await runPlace({ root, instance })), layout: place.layout }
  return { started: await startRun(at, c.argv, await withExtras(options, o.onWarning ?? (() => {}))) }
}

/** Secrets are not kept, so whoever reruns a job has to have them. */
function secrets(
  status: JobStatus,
  names: readonly string[],
  given: Readonly<Record<string, string>> = {},
): Record<string, string> {
  const missing = names.filter((n) => given[n] === undefined && process.env[n] === undefined)
  if (missing.length > 0)
    throw new ClientError(
      2,
      `Job ${status.id} (${status.name}) was given ${missing.join(', ')}, and values that look like secrets are not stored. Set ${missing.length === 1 ? 'it' : 'them'} here, or give ${missing.length === 1 ? 'it' : 'them'} again: vmspool rerun -e ${missing[0]}=… ${status.id}`,
    )
  return Object.fromEntries(names.flatMap((n) => (process.env[n] === undefined ? [] : [[n, process.env[n]]])))
}
