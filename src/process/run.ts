/** Runs one program in a process group (and session) of its own, to its end. */
import { randomUUID } from 'node:crypto'
import type { Readable } from 'node:stream'
import { endGroup } from './group.ts'
import { GROUP_TOKEN_VARIABLE, identify, type ProcessIdentity } from './identity.ts'

/** A promise holds the stream back until it settles, so that a flood of output costs no memory. */
type Sink = (chunk: Buffer) => void | Promise<void>

export interface RunOptions {
  cwd?: string
  /** added to the agent's own environment; `undefined` removes a variable */
  env?: Record<string, string | undefined>
  /** 'ignore' (default), text to be written, or an open file descriptor */
  stdin?: 'ignore' | string | number
  /** open descriptors of ours that become 3, 4, … in the child */
  extraFds?: number[]
  /** without it the child writes to /dev/null */
  onStdout?: Sink
  onStderr?: Sink
  /** aborting ends the whole group: TERM, then KILL after `killGraceMs` */
  signal?: AbortSignal
  killGraceMs?: number
  /** called as soon as the child exists, before the event loop turns */
  onSpawn?: (id: ProcessIdentity) => void
  /** through prlimit(1): address space in bytes, CPU time in seconds */
  limits?: { as_bytes?: number; cpu_s?: number }
}

export interface RunResult {
  exit_code: number | null
  signal: string | null
  duration_ms: number
}

/** The program could not be started at all. `code` is that of the operating system: ENOENT, EACCES, E2BIG … */
export class SpawnError extends Error {
  readonly code: string
  constructor(message: string, code: string, cause: unknown) {
    super(message, { cause })
    this.name = 'SpawnError'
    this.code = code
  }
}

/** How long output may still come after the group has ended: only a process that left the group can hold the pipe open. */
const OUTPUT_GRACE_MS = 1000

function limited(argv: readonly string[], limits: RunOptions['limits']): readonly string[] {
  const flags: string[] = []
  if (limits?.as_bytes !== undefined) flags.push(`--as=${limits.as_bytes}`)
  if (limits?.cpu_s !== undefined) flags.push(`--cpu=${limits.cpu_s}`)
  return flags.length === 0 ? argv : ['prlimit', ...flags, '--', ...argv]
}

/** Pumps a stream into a sink; resolves when it ended or was destroyed. Errors of the pipe are the end of it. */
async function pump(stream: Readable | null | undefined, sink: Sink | undefined, onError: (e: unknown) => void) {
  if (!stream || !sink) return
  try {
    for await (const chunk of stream) {
      try {
        await sink(chunk as Buffer)
      } catch (e) {
        onError(e)
      }
    }
  } catch {
    // destroyed by us, or the pipe broke: the exit status says what happened
  }
}

/**
 * @throws {SpawnError} when the program cannot be started, or the error that a sink threw, after the group has ended.
 * An abort does not throw: the result says how the program ended. When it returns, nothing of the group is left.
 */
export async function runGroup(argv: readonly string[], o: RunOptions = {}): Promise<RunResult> {
  const started = performance.now()
  if (argv.length === 0)
    throw new SpawnError('There is no program to run: the argument list is empty.', 'EINVAL', undefined)
  if (o.signal?.aborted) return { exit_code: null, signal: 'SIGTERM', duration_ms: 0 }
  const { execa } = await import('execa')
  const [file, ...args] = limited(argv, o.limits) as [string, ...string[]]
  const token = randomUUID()
  const stdin = o.stdin ?? 'ignore'
  const child = execa(file, args, {
    cwd: o.cwd,
    env: { ...o.env, [GROUP_TOKEN_VARIABLE]: token } as Record<string, string>,
    detached: true,
    cleanup: false, // our own groups outlive no agent by accident: the agent ends them, and the next one what was left over
    reject: false,
    buffer: false,
    stripFinalNewline: false,
    forceKillAfterDelay: false,
    ...(typeof stdin === 'string' && stdin !== 'ignore' ? { input: stdin } : {}),
    stdio: [
      typeof stdin === 'string' && stdin !== 'ignore' ? 'pipe' : stdin,
      o.onStdout ? 'pipe' : 'ignore',
      o.onStderr ? 'pipe' : 'ignore',
      ...(o.extraFds ?? []),
    ] as never,
  })
  const found = child.pid === undefined ? undefined : identify(child.pid)
  if (child.pid === undefined || !found) {
    const r = (await child) as { code?: string; shortMessage?: string; cause?: unknown; originalMessage?: string }
    const code = r.code ?? 'EUNKNOWN'
    const what = argv[0] as string
    const why =
      code === 'ENOENT'
        ? o.cwd === undefined
          ? 'there is no such program in PATH'
          : `there is no such program in PATH, or its working directory ${o.cwd} does not exist`
        : code === 'EACCES'
          ? 'it may not be executed by this user'
          : (r.originalMessage ?? code)
    throw new SpawnError(`The program "${what}" could not be started: ${why}.`, code, r.cause)
  }
  const id: ProcessIdentity = { ...found, token }
  const stdout = child.stdout as Readable | null
  const stderr = child.stderr as Readable | null
  const sinkErrors: unknown[] = []
  let giveUp: (e: unknown) => void = () => {}
  const unkillable = new Promise<never>((_, reject) => {
    giveUp = reject
  })
  unkillable.catch(() => {})
  let ending: Promise<void> | undefined
  const end = (): void => {
    ending ??= endGroup(id, o.killGraceMs ?? 5000, { live: true })
    ending.catch(giveUp)
  }
  const failed = (e: unknown): void => {
    sinkErrors.push(e)
    end()
  }
  const exited = new Promise<{ exit_code: number | null; signal: string | null }>((resolve) => {
    child.nodeChildProcess.once('exit', (exit_code, signal) => resolve({ exit_code, signal }))
  })
  const pumps = Promise.all([pump(stdout, o.onStdout, failed), pump(stderr, o.onStderr, failed)])
  void Promise.resolve(child).catch(() => {})
  try {
    o.onSpawn?.(id)
  } catch (e) {
    failed(e)
  }
  o.signal?.addEventListener('abort', end, { once: true })
  if (o.signal?.aborted) end()
  try {
    const how = await Promise.race([exited, unkillable])
    await ending
    // What the leader left running in its group ends with it: the job is over.
    await endGroup(id, o.killGraceMs ?? 5000, { live: true })
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, OUTPUT_GRACE_MS)
    })
    await Promise.race([pumps, late])
    clearTimeout(timer)
    if (sinkErrors.length > 0) throw sinkErrors[0]
    return { ...how, duration_ms: performance.now() - started }
  } finally {
    o.signal?.removeEventListener('abort', end)
    stdout?.destroy()
    stderr?.destroy()
  }
}
