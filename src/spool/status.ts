/** Status files: what a job is doing, for whoever can read a file. Never the truth itself; the folders are. */
import { join } from 'node:path'
import { dependenciesOf, dependenciesText } from './after.ts'
import { errno } from './errors.ts'
import { findJob, type FoundJob, locate } from './find.ts'
import { ensureDir, namesIn } from './moves.ts'
import { type JobName, keyOf, ULID, WAITS } from './names.ts'
import { familyFields, type JobRecord, readRecord } from './record.ts'
import type { JobStatus } from './schema.ts'
import { randomHex, type Spool } from './spool.ts'
import { readLane } from './ticket.ts'

async function replaceFile(s: Spool, dir: string, file: string, text: string): Promise<void> {
  const temp = join(dir, `.${file}.${randomHex(s, 3)}.tmp`)
  await s.fs.writeFile(temp, text, { mode: 0o644, sync: false })
  await s.fs.rename(temp, join(dir, file))
}

/**
 * Writes a job's status: jobs/<id>/status.json always, <name>.status.json when it is the last job of its name. The look at
 * the lane and the write are two steps; sweepStatus() mends what a stalled agent wrote in between.
 */
export async function writeStatus(s: Spool, status: JobStatus): Promise<void> {
  const text = `${JSON.stringify(status, null, 2)}\n`
  const dir = join(s.layout.outputJobs, status.id)
  try {
    await replaceFile(s, dir, 'status.json', text)
  } catch (error) {
    if (errno(error) !== 'ENOENT') throw error
    await ensureDir(s, dir)
    await replaceFile(s, dir, 'status.json', text)
  }
  const lane = await readLane(s, keyOf(status.name), false)
  if (lane.at(-1)?.id === status.id) await replaceFile(s, s.layout.output, `${status.name}.status.json`, text)
}

/** A job's status as last written; undefined when there is none. */
async function readStatus(s: Spool, id: string): Promise<JobStatus | undefined> {
  return readStatusFile(s, join(s.layout.outputJobs, id, 'status.json'))
}

async function readStatusFile(s: Spool, path: string): Promise<JobStatus | undefined> {
  try {
    const { bytes } = await s.fs.readFile(path, 1 << 20)
    const status = JSON.parse(bytes.toString('utf8'))
    return typeof status?.id === 'string' && typeof status.state === 'string' ? status : undefined
  } catch (error) {
    if (
      error instanceof SyntaxError ||
      errno(error) === 'ENOENT' ||
      errno(error) === 'ESTALE' ||
      errno(error) === 'ENOTREG'
    )
      return undefined
    throw error
  }
}

const FINAL: Record<string, JobStatus['state']> = {
  done: 'succeeded',
  failed: 'failed',
  cancelled: 'cancelled',
  rejected: 'rejected',
}

/** What the folders say about a job: the state that a status must not contradict. */
function stateFromFolder(job: FoundJob): JobStatus['state'] {
  const final = FINAL[job.state === 'committed' ? (job.name.outcome ?? '') : job.state]
  if (final) return final
  if (job.state === 'claimed' || job.state === 'started') return 'running'
  if (job.state === 'held') return job.name.failures > 0 ? 'retrying' : 'held'
  return 'queued'
}

/** What a held job waits for, as far as its name and its record tell. */
export function heldFor(name: JobName, record: JobRecord | undefined): string {
  if (name.due_ms !== WAITS) return `its time, ${new Date(name.due_ms ?? 0).toISOString()}`
  const on = record === undefined ? [] : dependenciesOf(record)
  return on.length === 0 ? 'other jobs' : dependenciesText(on)
}

/** A job's status with the folders' word on its state. */
export async function statusOf(s: Spool, job: FoundJob): Promise<JobStatus> {
  const written = await readStatus(s, job.name.id)
  const state = stateFromFolder(job)
  if (written && written.state === state && (written.epoch === job.name.epoch || FINAL[job.state])) return written
  const record = await readRecord(s, job.path).catch(() => undefined)
  const now = new Date(s.clock.now()).toISOString()
  const { progress: _p, phase: _ph, waiting_on: _w, ...kept } = written ?? ({} as Partial<JobStatus>)
  return {
    schema: 1,
    accepted_at: record?.drop.at ?? now,
    ...kept,
    ...(FINAL[state] ? await lastWord(s, job.name.id) : {}),
    id: job.name.id,
    name: record?.answer ?? kept.name ?? job.name.id,
    kind: record?.kind ?? kept.kind ?? 'convert',
    state,
    since: kept.state === state && kept.since ? kept.since : now,
    attempt: job.name.failures + job.name.crashes + 1,
    epoch: job.name.epoch,
    priority: job.name.priority,
    drop_file: record?.drop.file ?? kept.drop_file ?? '',
    ...(record ? familyFields(record) : {}),
    ...(job.name.due_ms ? { waiting_on: heldFor(job.name, record) } : {}),
    ...(job.owner ? { owner: job.owner } : {}),
  } as JobStatus
}

/**
 * Rewrites public status files from the folders, so that the last write of a stalled agent cannot lie for ever.
 * @returns how many were wrong
 */
export async function sweepStatus(s: Spool): Promise<number> {
  const files = (await namesIn(s, s.layout.output)).filter((f) => f.endsWith('.status.json') && !f.startsWith('.'))
  const said: { file: string; status: JobStatus }[] = []
  for (const file of files) {
    const status = await readStatusFile(s, join(s.layout.output, file))
    if (status && ULID.test(status.id)) said.push({ file, status })
  }
  const jobs = await locate(s, new Set(said.map((x) => x.status.id)))
  let mended = 0
  for (const { file, status } of said) {
    const job = jobs.get(status.id)
    if (!job) continue // its record was retained away; the answer stays
    const answer = file.slice(0, -'.status.json'.length)
    if (agrees(status, job) && status.name === answer) continue
    const [now] = await findJob(s, status.id)
    // The end of a committed one is told when its answer lies where clients look, and with the words of its result: by whoever publishes it.
    if (!now || now.state === 'committed' || agrees(status, now)) continue // it moved while we looked
    if (!FINAL[now.state] && stateFromFolder(now) === status.state) {
      await writeStatus(s, await statusOf(s, now)) // the last word of an attempt that lost the job
      mended += 1
      continue
    }
    await replaceFile(s, s.layout.output, file, `${JSON.stringify(await finalOrDerived(s, now), null, 2)}\n`)
    mended += 1
  }
  return mended
}

/** Whether a status says what the folders say; of a job that is not over also for which attempt. */
function agrees(status: JobStatus, job: FoundJob): boolean {
  if (status.state !== stateFromFolder(job)) return false
  return FINAL[job.state] !== undefined || status.epoch === job.name.epoch
}

/** What a job's result says of its end; it was committed with it, and its agent may have died before it said the same in the status. */
async function lastWord(s: Spool, id: string): Promise<Partial<JobStatus>> {
  try {
    const { bytes } = await s.fs.readFile(join(s.layout.outputJobs, id, 'result.json'), 4 << 20)
    const r = JSON.parse(bytes.toString('utf8'))
    const told = {
      reason: r.error?.message ?? r.summary,
      started_at: r.started_at,
      finished_at: r.finished_at,
      exit_code: r.exit_code,
      signal: r.signal,
    }
    return Object.fromEntries(Object.entries(told).filter(([, value]) => value !== undefined)) as Partial<JobStatus>
  } catch {
    return {}
  }
}

/** For a final job the status inside its result is the last word: it was committed with it. */
async function finalOrDerived(s: Spool, job: FoundJob): Promise<JobStatus> {
  const derived = await statusOf(s, job)
  return FINAL[job.state] ? { ...derived, ...(await lastWord(s, job.name.id)) } : derived
}
