/**
 * Running a command without an agent: the record is written, then a shim is started that stays with the command and records how it
 * ended. What is needed before the start is synchronous and light, see spool/started.ts.
 */
import { hostname } from 'node:os'
import { basename, resolve } from 'node:path'
import type { ShimSpec } from '../process/index.ts'
import { createDirect, type Direct } from '../spool/started.ts'
import { looksSecret } from '../text/secret.ts'
import { commandTitle } from '../text/words.ts'
import type { RunPlace } from './run-place.ts'
import type { JobStatus } from './status.ts'

export interface RunOptions {
  /** default: ours */
  cwd?: string
  /** added to our environment; what looks like a secret reaches the command alone and is stored nowhere */
  env?: Readonly<Record<string, string>>
  /** absolute paths of files of NAME=value lines, and what they say now; a rerun reads them again */
  env_files?: readonly string[]
  file_env?: Readonly<Record<string, string>>
  /** answer name; default: the program's */
  name?: string
  timeout_ms?: number
  kill_signal?: string
  kill_grace_ms?: number
  /** exit codes that count as success; default 0 */
  expected?: readonly number[]
  /** path; default /dev/null */
  stdin?: string
  /** as in a manifest of kind command, and the programs that impose them, in front of the command */
  limits?: Readonly<Record<string, unknown>>
  prefix?: readonly string[]
  /** false: neither record nor result need survive a power loss */
  fsync?: boolean
  retry_of?: string
}

export interface PreparedRun {
  job: Direct
  spec: ShimSpec
}

/**
 * Writes the job's record; its process may then be started.
 * @throws SpoolError 73 when there is no such spool, 77 when it may not be written
 */
export function prepareRun(place: RunPlace, argv: readonly string[], o: RunOptions): PreparedRun {
  const name = o.name ?? nameOf(argv[0]!)
  const cwd = folderOf(o.cwd)
  const kill_grace_ms = o.kill_grace_ms ?? place.kill_grace_ms
  const given = Object.entries(o.env ?? {})
  const secrets = given.filter(([n]) => looksSecret(n)).map(([n]) => n)
  const open = given.filter(([n]) => !looksSecret(n))
  const manifest = {
    kind: 'command',
    name,
    priority: 5,
    ...(o.timeout_ms === undefined ? {} : { timeout: o.timeout_ms / 1000, timeout_ms: o.timeout_ms }),
    command: {
      argv: [...argv],
      cwd,
      ...(open.length === 0 ? {} : { env: Object.fromEntries(open) }),
      ...(secrets.length === 0 ? {} : { secret_env: secrets }),
      ...(o.env_files?.length ? { env_file: [...o.env_files] } : {}),
      ...(o.stdin === undefined ? {} : { stdin_file: o.stdin }),
      ...(o.limits === undefined ? {} : { limits: o.limits }),
      ...(o.kill_signal === undefined ? {} : { kill_signal: o.kill_signal }),
      ...(o.kill_grace_ms === undefined ? {} : { kill_grace: kill_grace_ms / 1000, kill_grace_ms }),
      ...(o.expected === undefined ? {} : { expected_exit_codes: [...o.expected] }),
    },
  } as unknown as Parameters<typeof createDirect>[1]['manifest']
  const sync = o.fsync !== false
  const host = hostname()
  const job = createDirect(place.layout, {
    name,
    manifest,
    cwd,
    host,
    sync,
    ...(o.retry_of === undefined ? {} : { retry_of: o.retry_of }),
  })
  const { id, dir, log, status, result, record, done, failed, cancelled, events } = job
  const spec: ShimSpec = {
    dir,
    argv: [...(o.prefix ?? []), ...argv],
    cwd,
    env: {
      ...(process.env.NODE_COMPILE_CACHE?.endsWith('/vmspool') ? { NODE_COMPILE_CACHE: undefined } : {}), // our launcher's
      VMSPOOL_JOB: id,
      VMSPOOL_NAME: name,
      ...o.file_env,
      ...o.env,
    },
    ...(o.stdin === undefined ? {} : { stdin: o.stdin }),
    log: { path: log, mode: 0o640, ...place.log },
    ...(o.timeout_ms === undefined ? {} : { timeout_ms: o.timeout_ms }),
    ...(o.kill_signal === undefined ? {} : { kill_signal: o.kill_signal }),
    kill_grace_ms,
    ...(o.expected === undefined ? {} : { expected: o.expected }),
    fsync: sync,
    finish: {
      id,
      name,
      status,
      result,
      record,
      done,
      failed,
      cancelled,
      events,
      title: commandTitle(argv),
    },
  }
  return { job, spec }
}

function folderOf(cwd: string | undefined): string {
  try {
    return resolve(cwd ?? '.')
  } catch (error) {
    const message = 'The current folder was removed, so a command cannot be started in it. Name another one with --cwd.'
    throw Object.assign(new Error(message, { cause: error }), { exitCode: 74 })
  }
}

/** What a job is called when nobody says: as its program, when that can name a file. */
function nameOf(program: string): string {
  const name = basename(program)
  return /^[A-Za-z0-9_][\w.+-]{0,99}$/.test(name) && !['jobs', 'superseded', 'vms'].includes(name) ? name : 'command'
}

/**
 * Starts a command that nobody waits for. Its job is found like any other: by its id, or by its name.
 * @throws SpoolError 73 or 77 when the record cannot be written
 */
export async function startRun(place: RunPlace, argv: readonly string[], o: RunOptions = {}): Promise<StartedRun> {
  return startPrepared(place, argv, await withSpool(place, () => prepareRun(place, argv, o)))
}

export interface StartedRun {
  /** of the job: `running`, or what it ended as by now */
  status: JobStatus
  /** why the command could not be started, as a sentence; the job is `failed` then */
  failed?: string
}

export async function startPrepared(
  place: RunPlace,
  argv: readonly string[],
  { job, spec }: PreparedRun,
): Promise<StartedRun> {
  const { SpawnError, startFailure, startShim, waitShim } = await import('../process/index.ts')
  const { readJson } = await import('./liveness.ts')
  let failed: string | undefined
  try {
    const began = await startShim(spec)
    const failure = 'failed' in began ? startFailure(began.failed) : undefined
    if (failure !== undefined) {
      await waitShim(spec.dir) // until it has recorded that
      failed = failedSentence(argv, spec, failure)
    }
  } catch (error) {
    if (!(error instanceof SpawnError)) throw error
    const { failStarted } = await import('../spool/settle.ts')
    const { makeSpool } = await import('../spool/spool.ts')
    await failStarted(makeSpool({ layout: place.layout }), job.record, error.message)
    failed = `"${commandTitle(argv)}" could not be started. ${error.message} Job ${job.id} is on record as failed.`
  }
  const status = await readJson<JobStatus>(job.status)
  if (status === undefined) throw new Error(`The status of job ${job.id} was removed while its command started.`)
  return failed === undefined ? { status } : { status, failed }
}

/** A spool is made when its first command is started. */
export async function withSpool<T>(place: RunPlace, write: () => T): Promise<T> {
  try {
    return write()
  } catch (error) {
    if ((error as { exitCode?: number }).exitCode !== 73) throw error
    const { openSpool } = await import('../spool/spool.ts')
    await openSpool({ layout: place.layout, create: true })
    return write()
  }
}

/** The same words as in shim.pl. */
function failedSentence(
  argv: readonly string[],
  spec: ShimSpec,
  f: { code: string; step: string; message: string },
): string {
  const program = argv[0]!
  const because =
    f.step === 'cwd'
      ? `its working directory ${spec.cwd} cannot be entered (${f.message})`
      : f.step === 'stdin'
        ? `its standard input ${spec.stdin} cannot be opened (${f.message})`
        : f.step === 'exec' && f.code === 'ENOENT'
          ? program.includes('/')
            ? `there is no file ${program}`
            : `there is no program "${program}" in PATH`
          : f.step === 'exec' && f.code === 'EACCES'
            ? `${program} may not be executed by this user, or is no program`
            : f.message
  return `"${commandTitle(argv)}" could not be started: ${because}. Nothing runs; job ${spec.finish?.id} is on record as failed.`
}
