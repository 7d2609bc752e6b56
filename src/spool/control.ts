/** Requests to agents, as files that anybody who may write to control/ can leave: cancel a job, pause the instance. Whose count: rights.ts. */
import { join } from 'node:path'
import { type Claim, openClaim, takeOver } from './attempt.ts'
import { errno } from './errors.ts'
import { namesIn, removeFile } from './moves.ts'
import { type JobName, OUTCOMES, parseJobName, renamed, ULID } from './names.ts'
import { type JobRecord, readRecord } from './record.ts'
import { isOurs, permitted } from './rights.ts'
import { randomHex, type Spool } from './spool.ts'
import { commitUnrun } from './unrun.ts'

const CANCEL = /^cancel-([0-9A-Z]{26})\.json$/

async function writeRequest(s: Spool, file: string, body: object): Promise<void> {
  const path = join(s.layout.control, file)
  const temp = join(s.layout.control, `.${file}.${randomHex(s)}.tmp`)
  await s.fs.writeFile(temp, `${JSON.stringify(body)}\n`, { mode: 0o644, sync: true })
  await s.fs.rename(temp, path)
  await s.sync(s.layout.control)
}

/** Asks for a job to be cancelled. Durable when it returns; what the job then ends as is decided by its commit. */
export async function requestCancel(s: Spool, id: string, by: string, o: { force?: boolean } = {}): Promise<void> {
  const at = new Date(s.clock.now()).toISOString()
  await writeRequest(s, `cancel-${id}.json`, { schema: 1, job: id, by, at, ...(o.force ? { force: true } : {}) })
}

export interface CancelRequest {
  id: string
  by: string
  /** what runs is killed without grace */
  force: boolean
}

/** The jobs that somebody who may wants cancelled (rights.ts). Other requests are removed. */
export async function cancelRequests(s: Spool): Promise<CancelRequest[]> {
  const out: (CancelRequest & { uid: number | undefined })[] = []
  for (const file of await namesIn(s, s.layout.control)) {
    const id = CANCEL.exec(file)?.[1]
    if (!id || !ULID.test(id)) continue
    let by = 'a request'
    let force = false
    let uid: number | undefined
    try {
      const { bytes, stat } = await s.fs.readFile(join(s.layout.control, file), 65_536)
      uid = stat.uid
      const said = JSON.parse(bytes.toString('utf8'))
      by = String(said.by ?? by).slice(0, 200)
      force = said.force === true
    } catch {
      // what it says besides is a courtesy; of one that cannot be opened nobody knows whose it is
    }
    out.push({ id, by, force, uid })
  }
  if (out.length === 0) return out
  const { allowed, refused } = await permitted(s, out)
  for (const { id, by, uid } of refused) {
    s.log('cancel.refused', { job: id, by, uid })
    await removeFile(s, join(s.layout.control, `cancel-${id}.json`))
  }
  return allowed
}

/** Jobs that cannot just be committed as cancelled: a batch that waits for an agent may have children, which are to be cancelled too. */
export interface SpecialCancels {
  /** `run`: claim it, out of its turn in the lane, and hand it to `run`; `leave`: to another agent or a later round */
  decide(record: JobRecord): 'commit' | 'run' | 'leave'
  run(c: Claim): void
}

/**
 * Cancels the requested jobs that nobody runs, and removes requests whose job is seen final. A running one is its owner's
 * to abort; when it commits first, it has ended as what it committed.
 * @returns the jobs committed as cancelled here
 */
export async function processCancels(s: Spool, special?: SpecialCancels): Promise<JobName[]> {
  const requests = await cancelRequests(s)
  if (requests.length === 0) return []
  const out: JobName[] = []
  const waiting = new Map<string, string>()
  for (const dir of [s.layout.new, s.layout.held]) {
    for (const file of await namesIn(s, dir)) {
      const name = parseJobName(file)
      if (name) waiting.set(name.id, join(dir, file))
    }
  }
  const ended = new Set<string>()
  for (const outcome of OUTCOMES) {
    for (const file of await namesIn(s, s.layout[outcome])) {
      const name = parseJobName(file)
      if (name) ended.add(name.id)
    }
  }
  for (const { id, by } of requests) {
    if (ended.has(id)) {
      await removeFile(s, join(s.layout.control, `cancel-${id}.json`))
      continue
    }
    const path = waiting.get(id)
    const name = path && parseJobName(path.slice(path.lastIndexOf('/') + 1))
    if (!path || !name) continue
    const plain = renamed(name, {})
    const how = special === undefined ? 'commit' : await whatToDo(s, path, special)
    if (how === 'leave') continue
    // Not by its place in the lane: a cancelled job runs nothing, and its client should not wait for the one before it.
    if (!(await takeOver(s, path, plain))) continue
    const c = await openClaim(s, plain)
    if (!c) continue
    if (how === 'run') {
      special?.run(c)
      continue
    }
    await commitCancelled(s, c, by)
    out.push(plain)
  }
  return out
}

async function whatToDo(s: Spool, path: string, special: SpecialCancels): Promise<'commit' | 'run' | 'leave'> {
  try {
    return special.decide(await readRecord(s, path))
  } catch (error) {
    if (errno(error) === 'ENOENT') return 'leave' // it moved: the next round finds it where it is
    throw error
  }
}

async function commitCancelled(s: Spool, c: Claim, by: string): Promise<void> {
  const { name } = c
  const message = `The job was cancelled before it ran, by ${by}. Nothing was converted. Drop it again to run it.`
  await commitUnrun(s, c, 'cancelled', { code: 'cancelled', message, attempt: name.failures + name.crashes })
}

/** Pauses or resumes the whole instance, on every host, across restarts. Running jobs go on. */
export async function setPaused(s: Spool, paused: boolean, by: string): Promise<void> {
  if (paused) await writeRequest(s, 'pause', { schema: 1, by, at: new Date(s.clock.now()).toISOString() })
  else {
    await removeFile(s, join(s.layout.control, 'pause'))
    await s.sync(s.layout.control)
  }
}

/** Whether an agent or root has paused the instance. By listing: a name looked up in vain stays absent for 30 s on NFS. */
export async function isPaused(s: Spool): Promise<boolean> {
  try {
    if (!(await s.fs.readdir(s.layout.control)).includes('pause')) return false
    return isOurs((await s.fs.lstat(join(s.layout.control, 'pause'))).uid)
  } catch (error) {
    if (errno(error) === 'ENOENT') return false
    throw error
  }
}
