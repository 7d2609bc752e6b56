/**
 * What a job handler is and what it is given. A handler knows no spool: it gets a folder of its own, an abort signal and
 * three callbacks, and returns an outcome or throws a {@link JobError}. So the same handler runs under an agent, from
 * `vmspool convert`, or in a stranger's program.
 */
import type { Config } from '../config/index.ts'
import type { Step } from '../convert/index.ts'
import type { Manifest } from '../manifest/index.ts'
import type { ProcessIdentity } from '../process/index.ts'
import type { Counts } from '../spool/index.ts'
import type { Vms } from '../vm/index.ts'
import type { Family } from './family.ts'

/** Where a job is. Totals and counts are bytes; a phase without bytes leaves both out. */
export interface JobProgress {
  phase: string
  bytes_done?: number
  bytes_total?: number
  message?: string
  /** how far it is, where bytes do not tell */
  percent?: number
  /** of a batch */
  children?: Counts
  /** of a command: where it runs */
  process?: { pid: number; host: string }
}

/** Who dropped the job, as what, when. */
export interface JobDrop {
  file: string
  uid: number
  gid: number
  at: string
  [more: string]: unknown
}

/** {@link JobDrop.file} of what nobody dropped: `vmspool convert` made it up */
export const COMMAND_LINE = 'command line'

/** Why a running job is asked to stop; it is the `reason` of {@link JobContext.signal}. */
export interface AbortReason {
  kind: 'cancel' | 'drain' | 'timeout' | 'fenced' | 'stalled'
  message: string
  /** of a cancel: who wants it */
  by?: string
  /** of a cancel: at once, without grace */
  force?: boolean
  /** of a drain: what can go on without an agent may stay for the next one of this host */
  leave?: boolean
}

/** One image or file that the job made, as it is named in `<name>.result.json`. */
export interface JobArtifact {
  /** relative to {@link JobContext.answerDir} */
  path: string
  disk_id?: string
  format?: string
  size_bytes?: number
  sha256?: string
  [more: string]: unknown
}

export interface JobPhase {
  name: string
  duration_ms: number
  detail?: unknown
}

export interface JobWarning {
  message: string
  path?: string
  [more: string]: unknown
}

/** What a job achieved; goes into `<name>.result.json` as it is. */
export interface JobOutcome {
  summary: string
  exit_code?: number
  signal?: string
  artifacts?: JobArtifact[]
  phases?: JobPhase[]
  warnings?: JobWarning[]
  [more: string]: unknown
}

/** An attempt of the same job that came before this one and left a folder behind. */
export interface EarlierAttempt {
  dir: string
  epoch: number
  owner: string
  /** its processes are known to be ended: what lies there may be renamed away, else only be copied */
  dead: boolean
  /** an attempt of the failed job that this one repeats; what it made from step `before` on is not to be used */
  kept?: { of: string; before?: Step }
}

/** The disks that a job has made, where they lie now. */
export interface JobResultDisks {
  /** its id */
  job: string
  disks: readonly { id: string; path: string; format: string; boot: boolean }[]
}

export interface JobContext<M = Manifest> {
  id: string
  answer: string
  epoch: number
  owner: string
  manifest: M
  drop: JobDrop
  /** bare disks that became this job lie here */
  payloadDir?: string
  /** output/.work/<ulid>/<epoch>-<owner>/: exists, is ours alone; scratch and artefacts */
  attemptDir: string
  /** attemptDir/answer/: what lies here at the end is published under its name */
  answerDir: string
  /** files put here go to output/jobs/<ulid>/, whatever becomes of the job */
  logsDir?: string
  /** absolute: where the answer's files will be found after publication; absent: {@link answerDir} */
  publicDir?: string
  earlierAttempts: readonly EarlierAttempt[]
  /** its reason is an {@link AbortReason} */
  signal: AbortSignal
  progress(p: JobProgress): void
  /** The job only waits for something that is away, or (undefined) goes on: meanwhile its place is free for others, and its status says what for. */
  waiting?(why: string | undefined): void
  /** goes to output/jobs/<ulid>/log */
  log(stream: 'stdout' | 'stderr' | 'agent', text: string | Buffer): void
  /** MUST be called for each child group, before it can do harm, so that a later agent can end a left-over one */
  spawned(id: ProcessIdentity): void
  config: Config
  /** for the handler of a batch */
  family?: Family
  /** the VM service of whoever runs the job, opened when it is first needed */
  vms?: () => Promise<Vms>
  /** a VM that cannot be defined is told in the outcome (`not_defined`), and costs nobody the converted disks */
  define_may_fail?: boolean
  /** what the last job of that id or answer name has published; undefined: there is no such job, or nothing of it is left */
  resultOf?: (job: string) => Promise<JobResultDisks | undefined>
  /** false once another agent has the job */
  owned?: () => Promise<boolean>
  /** for a handler whose programs outlive the agent */
  shim?: {
    /** attempts of this job that failed before this one */
    failures: number
    /** the job's log, which the shim writes itself */
    logFile: string
  }
}

export interface JobHandler<M = Manifest> {
  kind: string
  /** how much of the agent's total weight (`concurrency.weight`) the job takes; 0: it only waits for other jobs and holds no slot */
  weight(m: M): number
  /** @throws {JobError} for every failure that has a name; anything else counts as permanent and as a bug */
  run(m: M, c: JobContext<M>): Promise<JobOutcome>
}

/** What a failed attempt leaves for a job that repeats it. */
export interface KeptWork {
  /** steps that need not be done again */
  steps: string[]
  /** what it takes on disk */
  bytes: number
}

/** A failure with a name. `transient` decides whether another attempt may help. */
export class JobError extends Error {
  /** short and stable, for programs: 'checksum-mismatch', 'no-space', … */
  readonly code: string
  readonly transient: boolean
  /** what the reader should do next, a full sentence */
  readonly hint: string | undefined
  readonly exit_code: number | undefined
  readonly signal: string | undefined
  readonly phase: string | undefined
  /** more fields for `<name>.result.json` */
  readonly detail: Record<string, unknown> | undefined
  /** finished work that lies in the attempt's folder and is worth keeping for `vmspool retry` */
  kept: KeptWork | undefined

  constructor(
    message: string,
    o: {
      code: string
      transient: boolean
      hint?: string | undefined
      exit_code?: number | undefined
      signal?: string | undefined
      phase?: string | undefined
      detail?: Record<string, unknown> | undefined
      cause?: unknown
    },
  ) {
    super(message, o.cause === undefined ? undefined : { cause: o.cause })
    this.name = 'JobError'
    this.code = o.code
    this.transient = o.transient
    this.hint = o.hint
    this.exit_code = o.exit_code
    this.signal = o.signal
    this.phase = o.phase
    this.detail = o.detail
  }
}

/** The abort reason behind a signal, if it was aborted with one of ours. */
export function abortReason(signal: AbortSignal): AbortReason | undefined {
  if (!signal.aborted) return undefined
  const r: unknown = signal.reason
  if (typeof r === 'object' && r !== null && 'kind' in r && 'message' in r) return r as AbortReason
  return { kind: 'cancel', message: r instanceof Error ? r.message : 'The job was aborted.' }
}

/** What to throw when a job stops because its signal was aborted. The runner looks at the signal's reason, not at this. */
export function abortedError(signal: AbortSignal, phase?: string): JobError {
  const r = abortReason(signal)
  return new JobError(r?.message ?? 'The job was aborted.', {
    code: `aborted-${r?.kind ?? 'cancel'}`,
    transient: r?.kind !== 'cancel' && r?.kind !== 'timeout',
    phase,
  })
}
