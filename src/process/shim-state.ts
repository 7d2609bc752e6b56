/** What became of a command under a shim: read from its folder and the process table, by whoever may look. */
import { closeSync, constants, mkdirSync, openSync, readFileSync, type FSWatcher, watch, writeSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { errno } from './errno.ts'
import { endGroup, ownAnywhere } from './group.ts'
import { bootId, isAlive, isLocal, type ProcessIdentity } from './identity.ts'

/** `process.json`. */
export interface ShimProcess extends ProcessIdentity {
  schema: 1
  token: string
  host: string
  shim: { pid: number; start_ticks: number }
  /** RFC 3339 */
  started_at: string
}

/** `exit.json`. */
export interface ShimExit {
  schema: 1
  exit_code: number | null
  /** such as SIGTERM */
  signal: string | null
  core?: boolean
  started_at: string
  finished_at: string
  duration_ms: number
  /** processor time of the command and its children */
  user_ms: number
  system_ms: number
  timed_out?: boolean
  /** somebody asked it to stop; forced: without grace */
  stopped?: { by: string; at: string; forced: boolean }
  spawn_error?: { step: string; errno: number; message: string }
}

export type ShimState =
  | { state: 'running'; process: ShimProcess }
  | { state: 'ended'; exit: ShimExit; process?: ShimProcess }
  /** the shim was killed, and what it carried lives on, in its group or elsewhere: nobody will record how it ends */
  | { state: 'orphaned'; process: ShimProcess }
  /** nothing of it runs, and nobody recorded how it ended */
  | { state: 'lost'; why: string; process?: ShimProcess }
  /** only its own host (or container) can tell */
  | { state: 'elsewhere'; process: ShimProcess }

/** EISDIR: fenced */
const ABSENT = new Set(['ENOENT', 'ESTALE', 'ENOTDIR', 'EISDIR'])

function read<T>(path: string): T | undefined {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as T
  } catch (error) {
    if (ABSENT.has(errno(error))) return undefined
    if (error instanceof SyntaxError) return undefined
    throw error
  }
}

export const readProcess = (dir: string): ShimProcess | undefined => read(join(dir, 'process.json'))
export const readExit = (dir: string): ShimExit | undefined => read(join(dir, 'exit.json'))

const shimOf = (p: ShimProcess): ProcessIdentity => ({ ...p.shim, boot_id: p.boot_id, pidns: p.pidns })

/** @throws the error of the system when the folder may not be read (EACCES) */
export function shimState(dir: string): ShimState {
  const exit = readExit(dir)
  const process = readProcess(dir)
  if (exit) return { state: 'ended', exit, ...(process && { process }) }
  if (!process) return { state: 'lost', why: 'it was never started' }
  if (!isLocal(process)) {
    if (process.host !== hostname() || process.boot_id === bootId()) return { state: 'elsewhere', process }
    return { state: 'lost', why: 'the host was restarted while it ran', process }
  }
  if (isAlive(shimOf(process))) return { state: 'running', process }
  const late = readExit(dir) // it ended between our two looks
  if (late) return { state: 'ended', exit: late, process }
  if (ownAnywhere(process).length > 0) return { state: 'orphaned', process }
  return { state: 'lost', why: 'its shim was killed, so nobody saw how it ended', process }
}

/**
 * Makes sure that what was never started never will be: a shim that is late cannot write down who it is any more, and then starts
 * nothing. False when it has started after all.
 */
export function fenceShim(dir: string): boolean {
  try {
    mkdirSync(join(dir, 'process.json'), { recursive: false })
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return true // not even its folder is there
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    return readProcess(dir) === undefined
  }
}

/** Sends an order; false when no shim listens any more. */
function order(dir: string, line: string): boolean {
  let fd: number
  try {
    fd = openSync(join(dir, 'control'), constants.O_WRONLY | constants.O_NONBLOCK)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code === 'ENXIO' || code === 'ENOENT') return false
    throw error
  }
  try {
    writeSync(fd, line)
    return true
  } finally {
    closeSync(fd)
  }
}

/** How long after the last KILL a tree may take to be gone, in ms: the shim gives up after ten seconds itself. */
const SETTLE_MS = 15_000

/**
 * Ends a command: its kill signal, after the grace KILL, to everything it started. Returns how it ended, when nothing of it is left.
 * No pid is signalled but by the shim itself; only what a killed shim left behind is ended by its recorded identity.
 * @throws Error when something of it is still there after that, or when we may not (EACCES, EPERM)
 */
export async function stopShim(
  dir: string,
  o: { by: string; graceMs: number; signal?: string; force?: boolean },
): Promise<ShimState> {
  const grace = o.force ? 0 : Math.round(o.graceMs)
  const by = o.by.replace(/[^\w.@:-]+/g, '-') || 'somebody'
  const before = shimState(dir)
  if (before.state === 'running') order(dir, `stop ${by} ${grace} ${o.signal ?? 'SIGTERM'}\n`)
  else if (before.state !== 'orphaned') return before
  if (before.state === 'running') {
    const late = new AbortController()
    const timer = setTimeout(() => late.abort(), grace + SETTLE_MS)
    const after = await waitShim(dir, { signal: late.signal }).finally(() => clearTimeout(timer))
    if (after.state === 'running')
      throw new Error(
        `Process ${before.process.pid} did not end within ${Math.round((grace + SETTLE_MS) / 1000)} s of being told to, SIGKILL included. ` +
          'A process in state D waits for its disk or its network file system: look at those first.',
      )
    if (after.state !== 'orphaned') return after
  }
  await endGroup(before.process, grace, { anywhere: true })
  return shimState(dir)
}

/** How often the process table is looked at beside the watch on the folder, in ms. */
const LOOK_MS = 1000

/** Waits until the command has ended and its shim is gone (or the wait is aborted), and says how it stands then. */
export async function waitShim(dir: string, o: { signal?: AbortSignal } = {}): Promise<ShimState> {
  let wake = (): void => {}
  let watcher: FSWatcher | undefined
  try {
    watcher = watch(dir, () => wake())
    watcher.on('error', () => watcher?.close())
  } catch {
    // no watch to be had: the looks are enough
  }
  const aborted = (): void => wake()
  o.signal?.addEventListener('abort', aborted)
  try {
    for (let ended = 0; ; ) {
      const next = new Promise<void>((resolve) => {
        wake = resolve
      })
      const now = shimState(dir)
      if (o.signal?.aborted) return now
      if (now.state === 'ended') {
        // What it still has to record as a job without an agent takes it a moment.
        if (!now.process || !isAlive(shimOf(now.process)) || ended++ > 200) return now
      } else if (now.state !== 'running') return now
      const timer = setTimeout(() => wake(), now.state === 'ended' ? Math.min(25, 2 * ended) : LOOK_MS)
      await next
      clearTimeout(timer)
    }
  } finally {
    o.signal?.removeEventListener('abort', aborted)
    watcher?.close()
  }
}
