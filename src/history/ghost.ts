/**
 * The database of the Ghost process manager, read only: `tasks(id, pid, pgid, command, env, cwd, status, exit_code, started_at, finished_at,
 * log_path)`, times in seconds since 1970, command and env as JSON (contract C2). What it does not know is said and not made up: it never
 * records an exit code, calls everything "exited" that ended by itself, and notices an end only when somebody asks.
 */
import { existsSync, readFileSync, statSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { pathToFileURL } from 'node:url'
import { processStat } from '../process/identity.ts'
import { HistoryError } from './errors.ts'

export interface GhostTask {
  id: string
  pid: number
  command: string[]
  env: [string, string][]
  cwd: string | null
  status: string
  exit_code: number | null
  /** seconds since 1970 */
  started_at: number
  finished_at: number | null
  log_path: string
}

/** Where Ghost keeps its database, in its own order. */
function usualPlaces(env: NodeJS.ProcessEnv): string[] {
  const home = env.HOME || homedir()
  const dirs = [
    env.GHOST_DATA_DIR,
    env.XDG_DATA_HOME && join(env.XDG_DATA_HOME, 'ghost'),
    join(home, '.local', 'share', 'ghost'),
  ]
  return dirs.filter((d) => d !== undefined && d !== '').map((d) => join(d as string, 'tasks.db'))
}

/**
 * @param named a database, or the folder it lies in
 * @throws HistoryError 2 when there is none
 */
export function ghostDatabase(named: string | undefined, env: NodeJS.ProcessEnv = process.env): string {
  const candidates =
    named === undefined
      ? usualPlaces(env)
      : [statSync(named, { throwIfNoEntry: false })?.isDirectory() ? join(named, 'tasks.db') : named]
  const found = candidates.find((p) => existsSync(p))
  if (found !== undefined) return found
  throw new HistoryError(
    `There is no database of Ghost: ${candidates.join(' and ')} ${candidates.length === 1 ? 'does' : 'do'} not exist. ` +
      'Name it: vmspool history import PATH/tasks.db',
    2,
  )
}

/** @throws HistoryError 65 when it is no database of Ghost's */
export function* ghostTasks(path: string): Generator<GhostTask> {
  let db: DatabaseSync | undefined
  try {
    // Whoever has it open has a write-ahead log beside it; otherwise nothing is touched, not even for a lock.
    const url = pathToFileURL(path)
    if (!existsSync(`${path}-wal`)) url.searchParams.set('immutable', '1')
    db = new DatabaseSync(url, { readOnly: true, timeout: 5000 })
    const rows = db.prepare('SELECT * FROM tasks ORDER BY started_at, id').iterate()
    for (const row of rows) yield taskOf(row)
  } catch (error) {
    if ((error as { errcode?: number }).errcode === undefined) throw error
    throw new HistoryError(
      `${path} cannot be read as a database of Ghost: ${(error as Error).message}. Nothing more is imported from it.`,
      65,
      { cause: error },
    )
  } finally {
    db?.close()
  }
}

function taskOf(row: Record<string, unknown>): GhostTask {
  const env = json(row.env)
  const command = json(row.command)
  return {
    id: String(row.id),
    pid: Number(row.pid) || 0,
    command: Array.isArray(command) && command.length > 0 ? command.map(String) : [String(row.command)],
    env: Array.isArray(env)
      ? env.filter((p) => Array.isArray(p) && p.length === 2).map(([k, v]) => [String(k), String(v)])
      : [],
    cwd: typeof row.cwd === 'string' ? row.cwd : null,
    status: String(row.status),
    exit_code: typeof row.exit_code === 'number' ? row.exit_code : null,
    started_at: Number(row.started_at) || 0,
    finished_at: typeof row.finished_at === 'number' ? row.finished_at : null,
    log_path: String(row.log_path ?? ''),
  }
}

function json(value: unknown): unknown {
  try {
    return JSON.parse(String(value))
  } catch {
    return undefined
  }
}

/** How a task ended, or that it goes on. */
export type GhostEnd =
  | { state: 'succeeded'; summary: string }
  | { state: 'failed' | 'cancelled'; code: string; message: string }
  | { state: 'running' }

export function endOf(task: GhostTask, runs: (task: GhostTask) => string | true = stillRuns): GhostEnd {
  const code = task.exit_code
  switch (task.status) {
    case 'running': {
      const why = runs(task)
      if (why === true) return { state: 'running' }
      return {
        state: 'failed',
        code: 'lost',
        message: `Ghost has it as running, but ${why}; how it ended nobody recorded.`,
      }
    }
    case 'exited':
      if (code === 0) return { state: 'succeeded', summary: 'It ended with exit code 0.' }
      if (code !== null) return { state: 'failed', code: 'exit-code', message: `It ended with exit code ${code}.` }
      return {
        state: 'failed',
        code: 'exit-unknown',
        message: 'It has ended, but Ghost did not record its exit code: whether it succeeded is not known.',
      }
    case 'killed':
      return {
        state: 'cancelled',
        code: 'killed',
        message: 'It was stopped by Ghost, with TERM or KILL: which is not recorded.',
      }
    default:
      return {
        state: 'failed',
        code: 'lost',
        message: `Ghost has it as "${task.status}": how it ended nobody recorded.`,
      }
  }
}

/**
 * Ghost knows a process by its pid alone, and pids are given again. Ours it is when the process with that pid started when the task did.
 * @returns true, or why it cannot run any more
 */
function stillRuns(task: GhostTask): string | true {
  const boot = Number(/^btime (\d+)$/m.exec(readFileSync('/proc/stat', 'latin1'))?.[1])
  if (task.started_at < boot - 1) return 'the host was started again since'
  const stat = task.pid > 0 ? processStat(task.pid) : undefined
  if (stat === undefined || stat.state === 'Z') return `its process ${task.pid} is gone`
  const started = boot + stat.start_ticks / 100 // USER_HZ is 100 on every Linux that Node runs on
  // Ghost makes each task the leader of a session. A minute, since the clock may have been set in between.
  if (stat.session !== task.pid || Math.abs(started - task.started_at) > 60)
    return `process ${task.pid} is another one by now`
  return true
}
