/**
 * The audit. Reads a spool and its outputs and checks the rules: each accepted job in exactly one state, each ended job with
 * exactly one answer of the committed epoch, nothing orphaned. On a spool where agents run, a finding may be a move that was
 * under way, so each is looked at a second time.
 */
import { join } from 'node:path'
import { FINAL_STATES, type FoundJob, listJobs } from './find.ts'
import { keptAttempts } from './kept.ts'
import { namesIn } from './moves.ts'
import { keyOf, laneOf, ULID } from './names.ts'
import { readOwners } from './owner.ts'
import { type JobRecord, readRecord } from './record.ts'
import type { Spool } from './spool.ts'

export interface Problem {
  /** a stable name for programs */
  code: string
  /** error: a rule is broken; warning: untidy, and an agent will mend it */
  severity: 'error' | 'warning'
  message: string
  job?: string
  path?: string
}

export interface FsckReport {
  schema: 1
  jobs: number
  by_state: Record<string, number>
  tickets: number
  answers: number
  problems: Problem[]
}

export async function fsck(s: Spool): Promise<FsckReport> {
  const first = await audit(s)
  if (first.problems.length === 0) return first
  const second = await audit(s)
  const same = new Set(first.problems.map(keyOfProblem))
  second.problems = second.problems.filter((p) => same.has(keyOfProblem(p)))
  return second
}

function keyOfProblem(p: Problem): string {
  return `${p.code} ${p.job ?? ''} ${p.path ?? ''}`
}

async function audit(s: Spool): Promise<FsckReport> {
  const problems: Problem[] = []
  const jobs = await listJobs(s)
  const byId = new Map<string, FoundJob[]>()
  const by_state: Record<string, number> = {}
  for (const job of jobs) {
    byId.set(job.name.id, [...(byId.get(job.name.id) ?? []), job])
    by_state[job.state] = (by_state[job.state] ?? 0) + 1
  }
  for (const [id, places] of byId) {
    if (places.length < 2) continue
    const message = `The job ${id} is in ${places.length} states at once: ${places.map((p) => p.path).join(', ')}.`
    problems.push({ code: 'two-states', severity: 'error', message, job: id })
  }
  const tickets = await auditLanes(s, byId, problems)
  const answers = await auditAnswers(s, jobs, byId, problems)
  await auditOwners(s, problems)
  await auditStrays(s, byId, problems)
  return { schema: 1, jobs: byId.size, by_state, tickets, answers, problems }
}

async function auditLanes(s: Spool, byId: Map<string, FoundJob[]>, problems: Problem[]): Promise<number> {
  const tokens = await tokensIn(s, s.layout.intake)
  let count = 0
  const held = new Map<string, number>()
  for (const folder of await namesIn(s, s.layout.lanes)) {
    const files = await namesIn(s, join(s.layout.lanes, folder))
    for (const key of new Set(files.map((f) => f.slice(0, 24)))) {
      for (const t of laneOf(files, key)) {
        count += 1
        held.set(t.id, t.ticket)
        const job = byId.get(t.id)?.[0]
        const path = join(s.layout.lanes, folder, t.file)
        if (!job && !tokens.has(t.id)) {
          const message = `The ticket ${path} belongs to no job: it would block its lane for ever.`
          problems.push({ code: 'orphan-ticket', severity: 'error', message, job: t.id, path })
        } else if (job && FINAL_STATES.has(job.state)) {
          const message = `The job ${t.id} has ended and still holds the ticket ${path}.`
          problems.push({ code: 'final-with-ticket', severity: 'error', message, job: t.id, path })
        }
      }
    }
  }
  for (const [id, [job]] of byId) {
    if (!job || FINAL_STATES.has(job.state) || job.state === 'committed') continue
    if (held.get(id) === job.name.ticket) continue
    if (job.state === 'started') continue // runs without an agent, and so without a lane
    if (job.name.ticket === 0 && job.state === 'held') continue // a later run of a job that repeats: it draws its ticket when it is due
    const message = `The job ${id} waits in ${job.path} without its ticket ${job.name.ticket}: it can never be claimed.`
    problems.push({ code: 'no-ticket', severity: 'error', message, job: id, path: job.path })
  }
  return count
}

async function tokensIn(s: Spool, dir: string, depth = 0): Promise<Set<string>> {
  const out = new Set<string>()
  for (const name of await namesIn(s, dir)) {
    const id = /^([0-9A-Z]{26})(\.job$|--)/.exec(name)?.[1]
    if (id) out.add(id)
    else if (depth < 8 && !name.startsWith('.') && (depth === 0 || name.startsWith('t-')))
      for (const x of await tokensIn(s, join(dir, name), depth + 1)) out.add(x)
  }
  return out
}

async function auditAnswers(
  s: Spool,
  jobs: readonly FoundJob[],
  byId: Map<string, FoundJob[]>,
  problems: Problem[],
): Promise<number> {
  const output = new Set(await namesIn(s, s.layout.output))
  const superseded = new Set(await namesIn(s, s.layout.superseded))
  const waiting = await supersededByAgents(s)
  let answers = 0
  for (const job of jobs) {
    let record: JobRecord
    try {
      record = await readRecord(s, job.path)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') continue // it moved
      const message = `The job file ${job.path} cannot be read: ${String((error as Error).message)}`
      problems.push({ code: 'bad-record', severity: 'error', message, job: job.name.id, path: job.path })
      continue
    }
    if (record.id !== job.name.id || keyOf(record.answer) !== job.name.key) {
      const message = `The file ${job.path} holds the job ${record.id} with the answer name ${record.answer}: name and content do not belong together.`
      problems.push({ code: 'wrong-record', severity: 'error', message, job: job.name.id, path: job.path })
      continue
    }
    if (!FINAL_STATES.has(job.state)) continue
    const places: string[] = []
    for (const dir of [
      s.layout.output,
      join(s.layout.superseded, record.id),
      join(s.layout.superseded, record.id, 'answer'),
    ]) {
      if (dir === s.layout.output ? !output.has(`${record.answer}.result.json`) : !superseded.has(record.id)) continue
      const file = join(dir, `${record.answer}.result.json`)
      const result = await readJson(s, file)
      if (result?.id !== record.id) continue
      places.push(file)
      if (result.epoch !== job.name.epoch) {
        const message = `${file} is of epoch ${String(result.epoch)}, but the job ${record.id} was committed in epoch ${job.name.epoch}.`
        problems.push({ code: 'wrong-epoch', severity: 'error', message, job: record.id, path: file })
      }
    }
    if (waiting.has(record.id)) places.push('.old/')
    answers += places.length
    if (places.length > 1) {
      const message = `The job ${record.id} has ${places.length} answers: ${places.join(', ')}.`
      problems.push({ code: 'two-answers', severity: 'error', message, job: record.id })
    }
    const own = await readJson(s, join(s.layout.outputJobs, record.id, 'result.json'))
    if (own?.id !== record.id || own.epoch !== job.name.epoch) {
      const message = `The job ${record.id} (${record.answer}) ended as ${job.state}, but ${join(s.layout.outputJobs, record.id)} has no result of its epoch ${job.name.epoch}.`
      problems.push({ code: 'no-result', severity: 'error', message, job: record.id })
    }
  }
  for (const file of output) {
    if (file.startsWith('.') || !file.endsWith('.error')) continue
    const answer = file.slice(0, -'.error'.length)
    if (!output.has(`${answer}.qcow2`)) continue
    const message = `${answer} has both an image and an error in ${s.layout.output}: a poller takes the image. One of them is not the last job's.`
    problems.push({ code: 'both-answers', severity: 'error', message, path: join(s.layout.output, file) })
  }
  for (const file of output) {
    if (!file.endsWith('.result.json') || file.startsWith('.')) continue
    const id = (await readJson(s, join(s.layout.output, file)))?.id
    const job = typeof id === 'string' ? byId.get(id)?.[0] : undefined
    if (!job || job.state === 'committed' || FINAL_STATES.has(job.state)) continue
    const message = `${file} is the answer of ${id}, which is not committed: it lies in ${job.path}.`
    problems.push({
      code: 'uncommitted-answer',
      severity: 'error',
      message,
      job: job.name.id,
      path: join(s.layout.output, file),
    })
  }
  return answers
}

/** Ids whose answers lie in .old/ and wait to be put into superseded/. */
async function supersededByAgents(s: Spool): Promise<Set<string>> {
  const out = new Set<string>()
  const walk = async (dir: string, depth: number): Promise<void> => {
    for (const name of await namesIn(s, dir)) {
      if (name.endsWith('.result.json')) {
        const id = (await readJson(s, join(dir, name)))?.id
        if (typeof id === 'string') out.add(id)
      } else if (depth < 8 && !name.includes('--')) await walk(join(dir, name), depth + 1)
    }
  }
  await walk(s.layout.old, 0)
  return out
}

async function readJson(s: Spool, path: string): Promise<Record<string, unknown> | undefined> {
  try {
    const { bytes } = await s.fs.readFile(path, 16 << 20)
    const value = JSON.parse(bytes.toString('utf8'))
    return typeof value === 'object' && value !== null ? value : undefined
  } catch {
    return undefined
  }
}

async function auditOwners(s: Spool, problems: Problem[]): Promise<void> {
  const leases = new Set((await readOwners(s)).map((l) => l.owner))
  for (const dir of [s.layout.intake, s.layout.claimed, s.layout.old]) {
    for (const owner of await namesIn(s, dir)) {
      if (leases.has(owner)) continue
      const message = `${join(dir, owner)} belongs to an owner without a lease. The next agent takes it over.`
      problems.push({ code: 'owner-without-lease', severity: 'warning', message, path: join(dir, owner) })
    }
  }
}

async function auditStrays(s: Spool, byId: Map<string, FoundJob[]>, problems: Problem[]): Promise<void> {
  for (const id of await namesIn(s, s.layout.work)) {
    if (!ULID.test(id)) continue
    const job = byId.get(id)?.[0]
    if (job && !FINAL_STATES.has(job.state)) continue
    if (job?.state === 'failed' && (await keptAttempts(s, id)).length > 0) continue
    const message = `${join(s.layout.work, id)} is scratch of a job that ${job ? 'has ended' : 'is not there'}. Retention removes it.`
    problems.push({ code: 'scratch', severity: 'warning', message, job: id, path: join(s.layout.work, id) })
  }
  for (const id of await namesIn(s, s.layout.payload)) {
    if (!ULID.test(id)) continue
    const job = byId.get(id)?.[0]
    if (job && !FINAL_STATES.has(job.state)) continue
    const intents = await tokensAndIntents(s)
    if (intents.has(id)) continue
    const message = `${join(s.layout.payload, id)} holds disks of a job that ${job ? 'has ended' : 'is not there'}.`
    problems.push({ code: 'payload', severity: 'error', message, job: id, path: join(s.layout.payload, id) })
  }
}

async function tokensAndIntents(s: Spool): Promise<Set<string>> {
  const out = await tokensIn(s, s.layout.intake)
  for (const owner of await namesIn(s, s.layout.intake)) {
    for (const name of await namesIn(s, join(s.layout.intake, owner))) {
      const id = /^([0-9A-Z]{26})\.payload$/.exec(name)?.[1]
      if (id) out.add(id)
    }
  }
  return out
}
