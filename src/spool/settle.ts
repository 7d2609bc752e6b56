/**
 * The end of jobs without an agent whose shim could not record it: the host went down, or somebody killed the shim. Whoever looks at
 * such a job and may write says what became of it. A shim that lives has the only word on its job, and another host's is left alone.
 */
import { mkdirSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import {
  fenceShim,
  isAlive,
  isLocal,
  type ShimExit,
  type ShimProcess,
  type ShimState,
  shimState,
} from '../process/index.ts'
import { commandTitle } from '../text/words.ts'
import { errno } from './errors.ts'
import { appendEvent } from './events.ts'
import type { FoundJob } from './find.ts'
import { move, namesIn } from './moves.ts'
import { type Outcome, parseJobName, ulidTime } from './names.ts'
import { type JobRecord, readRecord } from './record.ts'
import type { JobStatus } from './schema.ts'
import { randomHex, type Spool } from './spool.ts'
import { statusOf } from './status.ts'

/** A record this young without a process is being started just now, in ms; also how long a shim we cannot see may take to move its record. */
const STARTING_MS = 60_000
/** The same of a job that another host starts: its age is told by two clocks, which may be hours apart. */
const STARTING_ELSEWHERE_MS = 24 * 3_600_000

interface Ending {
  outcome: Exclude<Outcome, 'rejected'>
  /** of the error; '' for a success */
  code: string
  /** what comes after the command */
  words: string
  exit?: ShimExit
}

/** Where a job's shim works, below its folder in output/jobs/. */
export function runFolder(s: Spool, id: string): string {
  return join(s.layout.outputJobs, id, 'run')
}

/**
 * Settles one job of jobs/started/ if nobody else will.
 * @param o.stoppedBy who has just ended it, when its shim could not see that
 * @returns whether it is final now
 * @throws the error of the system when its folders may not be read or written (EACCES)
 */
export async function settleStarted(s: Spool, job: FoundJob, o: { stoppedBy?: string } = {}): Promise<boolean> {
  const dir = runFolder(s, job.name.id)
  const state = shimState(dir)
  if (!isOver(s, job.name.id, state)) return false
  if (state.state === 'lost' && state.process === undefined) {
    const { host } = await statusOf(s, job)
    if (host !== undefined && host !== hostname() && ageOf(s, job.name.id) < STARTING_ELSEWHERE_MS) return false
    mkdirSync(dir, { recursive: true, mode: 0o700 }) // without it a starter that slept would not be kept out
    if (!fenceShim(dir)) return false
  }
  const record = await readRecord(s, job.path).catch((error) => {
    if (errno(error) === 'ENOENT') return undefined // moved by its shim while we looked
    throw error
  })
  if (record === undefined) return true
  await finish(s, job, record, state.state === 'ended' ? endingOf(state.exit, record) : lost(state, o.stoppedBy))
  return true
}

/** All of them, as an agent does now and then. Returns the ids of those that were settled; one that cannot be does not stop the rest. */
export async function settleAllStarted(
  s: Spool,
  o: { onError?(id: string, error: unknown): void } = {},
): Promise<string[]> {
  const out: string[] = []
  for (const file of await namesIn(s, s.layout.started)) {
    const name = parseJobName(file)
    if (!name) continue
    try {
      if (await settleStarted(s, { name, state: 'started', path: join(s.layout.started, file) })) out.push(name.id)
    } catch (error) {
      // Another user's is his to settle.
      if (errno(error) !== 'EACCES' && errno(error) !== 'EPERM') o.onError?.(name.id, error)
    }
  }
  return out
}

/** A job whose shim could not even be started, by whoever tried: there is nothing of it. */
export async function failStarted(s: Spool, path: string, why: string): Promise<void> {
  const name = parseJobName(path.slice(path.lastIndexOf('/') + 1))!
  const record = await readRecord(s, path)
  await finish(s, { name, state: 'started', path }, record, {
    outcome: 'failed',
    code: 'spawn-failed',
    words: `could not be started: ${why}`,
  })
}

function isOver(s: Spool, id: string, state: ShimState): boolean {
  const young = ageOf(s, id) < STARTING_MS
  if (state.state === 'lost') return state.process !== undefined || !young
  if (state.state !== 'ended') return false
  if (state.process === undefined) return !young
  if (isLocal(state.process)) return !isAlive(shimOf(state.process))
  return s.clock.now() - Date.parse(state.exit.finished_at) > STARTING_MS
}

const ageOf = (s: Spool, id: string) => s.clock.now() - ulidTime(id)
const shimOf = (p: ShimProcess) => ({ ...p.shim, boot_id: p.boot_id, pidns: p.pidns })

/** As shim.pl says it. */
function endingOf(exit: ShimExit, record: JobRecord): Ending {
  const m = record.manifest as { timeout_ms?: number; command?: { expected_exit_codes?: number[] } }
  const expected = m.command?.expected_exit_codes ?? [0]
  const how = exit.signal === null ? `ended with exit code ${exit.exit_code}` : `ended with signal ${exit.signal}`
  if (exit.spawn_error)
    return {
      outcome: 'failed',
      code: 'spawn-failed',
      words: `could not be started: ${exit.spawn_error.message}.`,
      exit,
    }
  if (exit.stopped)
    return { outcome: 'cancelled', code: 'cancelled', words: `was stopped by ${exit.stopped.by}; it ${how}.`, exit }
  if (exit.timed_out) {
    const words = `ran longer than its timeout of ${(m.timeout_ms ?? 0) / 1000} s and was stopped; it ${how}.`
    return { outcome: 'failed', code: 'timed-out', words, exit }
  }
  if (exit.exit_code !== null && expected.includes(exit.exit_code))
    return { outcome: 'done', code: '', words: `${how}.`, exit }
  const words = `${how}; expected was exit code ${expected.join(' or ')}.`
  return { outcome: 'failed', code: exit.signal === null ? 'exit-code' : 'killed', words, exit }
}

function lost(state: ShimState, stoppedBy: string | undefined): Ending {
  if (stoppedBy !== undefined)
    return {
      outcome: 'cancelled',
      code: 'cancelled',
      words: `was stopped by ${stoppedBy}; its shim was gone, so how it ended is not known.`,
    }
  const why = state.state === 'lost' ? state.why : 'nothing is known of it'
  const words = `ended unseen: ${why}. What it wrote until then is in its log.`
  return { outcome: 'failed', code: 'lost', words }
}

/** Result and status before the record moves, as the shim does it: who sees the job final finds both. */
async function finish(s: Spool, job: FoundJob, record: JobRecord, e: Ending): Promise<void> {
  const now = new Date(s.clock.now()).toISOString()
  const at = e.exit?.finished_at ?? now
  const { phase: _p, waiting_on: _w, reason: _r, since: _s, ...kept } = await statusOf(s, job)
  const state = e.outcome === 'done' ? 'succeeded' : e.outcome
  const { argv } = (record.manifest as { command: { argv: string[] } }).command
  const reason = `${commandTitle(argv)} ${e.words}`
  const status = {
    ...kept,
    direct: true,
    state,
    since: at,
    finished_at: at,
    reason,
    ...(e.exit?.exit_code == null ? {} : { exit_code: e.exit.exit_code }),
    ...(e.exit?.signal == null ? {} : { signal: e.exit.signal }),
  } as JobStatus
  const result = {
    ...status,
    ...(e.exit === undefined ? {} : { duration_ms: e.exit.duration_ms }),
    ...(e.outcome === 'done'
      ? { summary: reason }
      : {
          error: {
            code: e.code,
            message: reason,
            hint: `Read the whole output with: vmspool logs ${job.name.id}`,
            transient: false,
          },
        }),
  }
  const folder = join(s.layout.outputJobs, job.name.id)
  await replace(s, folder, 'result.json', result)
  await replace(s, folder, 'status.json', status)
  await appendEvent(s, {
    event: 'finished',
    job: job.name.id,
    name: record.answer,
    kind: record.kind,
    state,
    epoch: job.name.epoch,
    visible: false,
    attempt: 1,
    ...(e.outcome === 'done' ? {} : { error: reason }),
  })
  if (await move(s, job.path, join(s.layout[e.outcome], job.name.file))) await s.sync(s.layout[e.outcome])
}

async function replace(s: Spool, dir: string, file: string, content: object): Promise<void> {
  const temp = join(dir, `.${file}.${randomHex(s, 3)}.tmp`)
  await s.fs.writeFile(temp, `${JSON.stringify(content, null, 2)}\n`, { mode: 0o644, sync: true })
  await s.fs.rename(temp, join(dir, file))
}
