/** Requests to agents, as files that anybody who may write to control/ can leave: cancel a job, pause the instance. */
import { join } from 'node:path'
import { openClaim, takeOver } from './attempt.ts'
import { errno } from './errors.ts'
import { namesIn, removeFile } from './moves.ts'
import { type JobName, OUTCOMES, parseJobName, renamed, ULID } from './names.ts'
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
export async function requestCancel(s: Spool, id: string, by: string): Promise<void> {
  await writeRequest(s, `cancel-${id}.json`, { schema: 1, job: id, by, at: new Date(s.clock.now()).toISOString() })
}

export interface CancelRequest {
  id: string
  by: string
}

/** The jobs that somebody wants cancelled. */
export async function cancelRequests(s: Spool): Promise<CancelRequest[]> {
  const out: CancelRequest[] = []
  for (const file of await namesIn(s, s.layout.control)) {
    const id = CANCEL.exec(file)?.[1]
    if (!id || !ULID.test(id)) continue
    let by = 'a request'
    try {
      const { bytes } = await s.fs.readFile(join(s.layout.control, file), 65_536)
      by = String(JSON.parse(bytes.toString('utf8')).by ?? by).slice(0, 200)
    } catch {
      // an unreadable request is still one
    }
    out.push({ id, by })
  }
  return out
}

/**
 * Cancels the requested jobs that nobody runs, and removes requests whose job is seen final. A running one is its owner's
 * to abort; when it commits first, it has ended as what it committed.
 * @returns the jobs committed as cancelled here
 */
export async function processCancels(s: Spool): Promise<JobName[]> {
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
    // Not by its place in the lane: a cancelled job runs nothing, and its client should not wait for the one before it.
    if (!(await takeOver(s, path, plain))) continue
    await commitCancelled(s, plain, by)
    out.push(plain)
  }
  return out
}

async function commitCancelled(s: Spool, name: JobName, by: string): Promise<void> {
  const c = await openClaim(s, name)
  if (!c) return
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

/** Whether the instance is paused. By listing: a name looked up in vain stays absent for 30 s on NFS. */
export async function isPaused(s: Spool): Promise<boolean> {
  try {
    return (await s.fs.readdir(s.layout.control)).includes('pause')
  } catch (error) {
    if (errno(error) === 'ENOENT') return false
    throw error
  }
}
