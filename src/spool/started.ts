/**
 * Jobs that run without an agent (`vmspool run`): each is a record in jobs/started/ from before its process starts until its shim moves it
 * to done/, failed/ or cancelled/. They have no ticket (0), no lane and no public answer; their folder in output/jobs/ holds all.
 *
 * Synchronous, and with few imports: this is the way of `vmspool run`, which has little more time than Node needs to start.
 */
import { closeSync, fsyncSync, mkdirSync, openSync, readSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { clipWords } from '../text/words.ts'
import { requireOwnSpool } from './belongs.ts'
import { errno, SpoolError } from './errors.ts'
import type { Layout } from './layout.ts'
import { jobName, keyOf, ulidMaker } from './names.ts'
import type { JobRecord } from './record.ts'
import type { JobStatus } from './schema.ts'

const newId = ulidMaker(Date.now, randomBytes)

export interface NewDirect {
  /** answer name */
  name: string
  /** normalised, of kind command, without the values of secrets */
  manifest: JobRecord['manifest'] & { command: { argv: string[] } }
  cwd: string
  host: string
  retry_of?: string
  /** fsync: the record survives power loss when this returns */
  sync: boolean
}

export interface Direct {
  id: string
  name: string
  /** for startShim(); its `run` folder is not made yet */
  dir: string
  log: string
  status: string
  result: string
  record: string
  done: string
  failed: string
  cancelled: string
  events: string
}

/** What the record of a job without an agent is called: all that it says is known, ticket 0 is theirs alone. */
export function directFile(id: string, name: string): string {
  return jobName({ priority: 5, id, key: keyOf(name), ticket: 0, epoch: 0, failures: 0, crashes: 0 }).file
}

/**
 * Writes the record of a job that is about to start. When this returns its process may be started, and nobody takes it for a job of an
 * agent.
 * @throws SpoolError 73 when the spool has no such folders (see openSpool's `create`), 77 when it may not be written, or root would write in another user's
 */
export function createDirect(l: Layout, n: NewDirect): Direct {
  requireOwnSpool(l, 'A command would run', 'Choose a spool of your own with --root.')
  const id = newId()
  const at = new Date().toISOString()
  const file = directFile(id, n.name)
  const folder = join(l.outputJobs, id)
  const direct: Direct = {
    id,
    name: n.name,
    dir: join(folder, 'run'),
    log: join(folder, 'log'),
    status: join(folder, 'status.json'),
    result: join(folder, 'result.json'),
    record: join(l.started, file),
    done: join(l.done, file),
    failed: join(l.failed, file),
    cancelled: join(l.cancelled, file),
    events: join(l.daemon, 'events.jsonl'),
  }
  const status: JobStatus = {
    schema: 1,
    id,
    name: n.name,
    kind: 'command',
    state: 'running',
    since: at,
    attempt: 1,
    epoch: 0,
    priority: 5,
    accepted_at: at,
    started_at: at,
    host: n.host,
    command: clipWords(n.manifest.command.argv),
    cwd: n.cwd,
    direct: true,
    drop_file: '',
  }
  const record: JobRecord = {
    schema: 1,
    id,
    kind: 'command',
    answer: n.name,
    manifest: n.manifest,
    drop: { file: '', at, uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0, bytes: 0, sha256: '' },
    diagnostics: [],
    ...(n.retry_of === undefined ? {} : { retry_of: n.retry_of }),
  }
  let made = false
  try {
    mkdirSync(folder, 0o755)
    made = true
    write(direct.status, `${JSON.stringify(status, null, 2)}\n`, 0o644, false)
    if (n.sync) {
      syncFolder(folder)
      syncFolder(l.outputJobs)
    }
    // The record last: with it the job is there, and all that it names is there before.
    const temp = join(l.started, `.${file}.tmp`)
    write(temp, `${JSON.stringify(record)}\n`, 0o640, n.sync)
    renameSync(temp, direct.record)
    if (n.sync) syncFolder(l.started)
  } catch (error) {
    if (made) rmSync(folder, { recursive: true, force: true })
    throw explained(l, error)
  }
  return direct
}

function write(path: string, text: string, mode: number, sync: boolean): void {
  const fd = openSync(path, 'wx', mode)
  try {
    writeFileSync(fd, text)
    if (sync) fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}

function syncFolder(path: string): void {
  const fd = openSync(path, 'r')
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}

/** From the kernel: loading node:crypto for ten bytes takes longer than all the rest. */
function randomBytes(n: number): Uint8Array {
  const bytes = new Uint8Array(n)
  const fd = openSync('/dev/urandom', 'r')
  try {
    if (readSync(fd, bytes) !== n) throw new Error('/dev/urandom gave fewer bytes than were asked for.')
  } finally {
    closeSync(fd)
  }
  return bytes
}

function explained(l: Layout, error: unknown): unknown {
  const code = errno(error)
  const path = (error as NodeJS.ErrnoException).path ?? l.outputJobs
  if (code === 'ENOENT')
    return new SpoolError(`There is no spool "${l.instance}" below ${l.root}: ${path} cannot be made.`, 73, {
      cause: error,
    })
  if (code === 'EACCES' || code === 'EPERM')
    return new SpoolError(
      `${path} may not be written by this user (${code}), so nothing can be started in the spool "${l.instance}". ` +
        'Name a spool of your own with --root or VMSPOOL_ROOT; for a user the default is one in $XDG_DATA_HOME/vmspool.',
      77,
      { cause: error },
    )
  return error
}
