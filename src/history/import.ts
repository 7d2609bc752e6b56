/**
 * Tasks of Ghost become finished jobs of a spool: files like those of any other job, so that the index stays one of files. Their ids
 * follow from Ghost's, so importing again adds what is new and nothing twice.
 */
import { constants, copyFileSync, existsSync, mkdirSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { safeName } from '../manifest/safe-name.ts'
import { appendEvent, type SpoolEvent } from '../spool/events.ts'
import { jobName, keyOf, OUTCOMES, type Outcome, ulidMaker } from '../spool/names.ts'
import type { Spool } from '../spool/spool.ts'
import { looksSecret, withoutPassword } from '../text/secret.ts'
import { sha256Hex } from '../text/sha256.ts'
import { endOf, type GhostTask, ghostTasks } from './ghost.ts'

export interface Imported {
  imported: number
  /** were there from an earlier import */
  already: number
  /** still run: not imported */
  running: { id: string; pid: number }[]
  /** how they ended is not known */
  lost: number
  /** Ghost's log of them is gone */
  without_log: number
}

/**
 * @param s the user's own spool, with its folders made
 * @throws HistoryError 65 when the file is no database of Ghost's; what writing files throws
 */
export async function importGhost(s: Spool, database: string, onTask?: (done: Imported) => void): Promise<Imported> {
  const done: Imported = { imported: 0, already: 0, running: [], lost: 0, without_log: 0 }
  let events: SpoolEvent[] = []
  const tell = async (): Promise<void> => {
    await appendEvent(s, events)
    events = []
  }
  try {
    for (const task of ghostTasks(database)) {
      const event = importTask(s, task, done)
      if (event !== undefined && events.push(event) >= 200) await tell()
      onTask?.(done)
    }
  } finally {
    await tell()
  }
  return done
}

const outcomeOf = { succeeded: 'done', failed: 'failed', cancelled: 'cancelled' } as const satisfies Record<
  string,
  Outcome
>

function importTask(s: Spool, task: GhostTask, done: Imported): SpoolEvent | undefined {
  const end = endOf(task)
  if (end.state === 'running') {
    done.running.push({ id: task.id, pid: task.pid })
    return undefined
  }
  const id = idOf(task)
  const answer = safeName(task.id) ? task.id : `ghost-${id}`
  const { file } = jobName({ priority: 5, id, key: keyOf(answer), ticket: 0, epoch: 0, failures: 0, crashes: 0 })
  if (OUTCOMES.some((o) => existsSync(join(s.layout[o], file)))) {
    done.already += 1
    return undefined
  }
  const dir = join(s.layout.outputJobs, id)
  mkdirSync(dir, { recursive: true })
  const log = takeLog(task, dir)
  if (log === undefined) done.without_log += 1
  if ('code' in end && (end.code === 'lost' || end.code === 'exit-unknown')) done.lost += 1

  const started_at = iso(task.started_at * 1000)
  // Ghost notices an end when it is asked; of a lost task the last sign is what it wrote last.
  const finished_at = iso(
    task.finished_at === null ? Math.max(task.started_at * 1000, log ?? 0) : task.finished_at * 1000,
  )
  const warnings = [
    task.finished_at === null
      ? 'When it ended is not known: finished_at is when it last wrote to its log, or its start.'
      : 'finished_at is when Ghost noticed the end, which may be later than the end; so there is no duration.',
    ...(log === undefined ? [`Its log ${task.log_path || '(no name)'} does not exist any more.`] : []),
  ].map((message) => ({ message }))
  const reason = 'message' in end ? end.message : end.summary
  const common = {
    schema: 1,
    id,
    name: answer,
    kind: 'command',
    state: end.state,
    attempt: 1,
    epoch: 0,
    priority: 5,
    accepted_at: started_at,
    started_at,
    finished_at,
    ...(task.exit_code === null ? {} : { exit_code: task.exit_code }),
    drop_file: 'import from Ghost',
  }
  const status = {
    ...common,
    since: finished_at,
    reason,
    ...(task.pid > 0 ? { pid: task.pid } : {}),
    command: task.command,
    ...(task.cwd?.startsWith('/') ? { cwd: task.cwd } : {}),
    direct: true,
  }
  const result = {
    ...common,
    ...('code' in end ? { error: { code: end.code, message: end.message } } : { summary: end.summary }),
    warnings,
  }
  put(join(dir, 'result.json'), result, 0o644)
  put(join(dir, 'status.json'), status, 0o644)
  // Last: with its record the job is there.
  put(join(s.layout[outcomeOf[end.state]], file), recordOf(id, answer, task, started_at), 0o640)
  done.imported += 1
  return {
    event: 'finished',
    job: id,
    name: answer,
    kind: 'command',
    state: end.state,
    record: file,
    imported: 'ghost',
  }
}

/** ULID: the start of the task, then a hash of its id; even, as every first id of a drop is. */
function idOf(task: GhostTask): string {
  const hash = Buffer.from(sha256Hex(`ghost ${task.id} ${task.started_at}`).slice(0, 20), 'hex')
  return ulidMaker(
    () => Math.max(0, Math.min(task.started_at * 1000, 2 ** 48 - 1)),
    () => hash,
  )()
}

/** Ghost stores the whole environment, secrets too. Their names are kept, so that a rerun knows what it lacks. */
function recordOf(id: string, answer: string, task: GhostTask, at: string): Record<string, unknown> {
  const named = task.env.filter(([name, value]) => /^[^=\0]+$/.test(name) && !value.includes('\0'))
  const env = Object.fromEntries(named.filter(([name]) => !looksSecret(name)).map(([k, v]) => [k, withoutPassword(v)]))
  const secret_env = named.map(([name]) => name).filter(looksSecret)
  return {
    schema: 1,
    id,
    kind: 'command',
    answer,
    manifest: {
      kind: 'command',
      name: answer,
      priority: 5,
      labels: { ghost_id: task.id },
      command: {
        argv: task.command,
        ...(task.cwd?.startsWith('/') ? { cwd: task.cwd } : {}),
        ...(Object.keys(env).length > 0 ? { env } : {}),
        ...(secret_env.length > 0 ? { secret_env } : {}),
      },
    },
    drop: {
      file: 'import from Ghost',
      at,
      uid: process.getuid?.() ?? 0,
      gid: process.getgid?.() ?? 0,
      bytes: 0,
      sha256: '',
    },
    diagnostics: [],
  }
}

/** Copies the log as it is: whose line came from which stream and when, Ghost did not note. @returns when it was last written, ms */
function takeLog(task: GhostTask, dir: string): number | undefined {
  const found = task.log_path === '' ? undefined : statSync(task.log_path, { throwIfNoEntry: false })
  if (!found?.isFile()) return undefined
  const temp = join(dir, '.log.tmp')
  copyFileSync(task.log_path, temp, constants.COPYFILE_FICLONE)
  renameSync(temp, join(dir, 'log'))
  return found.mtimeMs
}

function put(path: string, content: unknown, mode: number): void {
  const at = path.lastIndexOf('/') + 1
  const temp = `${path.slice(0, at)}.${path.slice(at)}.tmp`
  writeFileSync(temp, `${JSON.stringify(content, null, 2)}\n`, { mode })
  renameSync(temp, path)
}

function iso(ms: number): string {
  return new Date(Math.max(0, Math.min(ms, 8.64e15))).toISOString()
}
