/** Jobs that wait for other jobs (`after`): what they wait for, and the two ways in which their waiting ends. */
import { join } from 'node:path'
import { type Claim, openClaim, takeOver } from './attempt.ts'
import { errno } from './errors.ts'
import { ensureDurableDir, move } from './moves.ts'
import { type JobName, type Outcome, renamed, ULID } from './names.ts'
import { type JobRecord, readRecord } from './record.ts'
import { randomHex, type Spool } from './spool.ts'
import { commitUnrun, type Ending } from './unrun.ts'

/** A job to wait for, and how it must have ended. Anything but success is a failure. */
export interface Dependency {
  /** a job id or an answer name */
  job: string
  when: 'success' | 'failure' | 'always'
}

/** What a job waits for; the manifest is normalised, so it is a list. */
export function dependenciesOf({ manifest }: Pick<JobRecord, 'manifest'>): readonly Dependency[] {
  const after: unknown = manifest.after
  return Array.isArray(after) ? after : []
}

const ENDS = { success: 'the success', failure: 'the failure', always: 'the end' } as const
const MOST_SHOWN = 5

/** The end of "waiting for …". `about` says more of a dependency than its name: which job it is, or that there is none. */
export function dependenciesText(on: readonly Dependency[], about?: (d: Dependency) => string): string {
  const some = on.slice(0, MOST_SHOWN).map((d) => {
    const what = ULID.test(d.job) ? `job ${d.job}` : `"${d.job}"`
    return `${ENDS[d.when]} of ${what}${about?.(d) ?? ''}`
  })
  const more = on.length > some.length ? `, and ${on.length - some.length} more` : ''
  return some.join(' and ') + more
}

/** Why a waiting job is not to run any more. */
export interface Unrun {
  outcome: Exclude<Outcome, 'done' | 'rejected'>
  code: string
  message: string
  /** what to do next */
  hint?: string
}

/** Beside the attempts of a waiting job, in `<output>/.work/<id>/`. Two files: each is written whole, by whoever comes to it. */
const UNRUN = 'after-unrun.json'
const MET = 'after-met.json'

/**
 * All that a job waited for has happened: it waits for an agent, or for its own time.
 * @returns its new name, or undefined when somebody else moved it
 */
export async function releaseWaiting(s: Spool, name: JobName, dueMs?: number): Promise<JobName | undefined> {
  const held = dueMs !== undefined && dueMs > s.clock.now()
  const next = renamed(name, held ? { due_ms: dueMs } : {})
  const dir = held ? s.layout.held : s.layout.new
  if (!(await move(s, join(s.layout.held, name.file), join(dir, next.file)))) return undefined
  await s.sync(dir)
  return next
}

/**
 * Ends a waiting job that is not to run. That is written down before it is claimed for its end: were we to die in between, whoever
 * finds the claim would run it.
 * @returns its record, or undefined when somebody else has it now
 */
export async function endWaiting(s: Spool, name: JobName, how: Unrun, ending?: Ending): Promise<JobRecord | undefined> {
  const from = join(s.layout.held, name.file)
  try {
    await readRecord(s, from)
  } catch (error) {
    if (errno(error) === 'ENOENT') return undefined
    throw error
  }
  await writeNote(s, name.id, UNRUN, how, true)
  const plain = renamed(name, {})
  if (!(await takeOver(s, from, plain))) return undefined
  const c = await openClaim(s, plain)
  if (!c) return undefined
  await ending?.(c)
  return (await commitUnrun(s, c, how.outcome, { ...how, attempt: 0 })) === 'committed' ? c.record : undefined
}

/** Of a claimed job: whether it was decided, before an agent died, that it must not run. Then that is committed. */
export async function endDecided(s: Spool, c: Claim, ending?: Ending): Promise<Unrun | undefined> {
  if (dependenciesOf(c.record).length === 0) return undefined
  const how = await readNote<Unrun>(s, c.name.id, UNRUN)
  if (!how) return undefined
  await ending?.(c)
  await commitUnrun(s, c, how.outcome, { ...how, attempt: 0 })
  return how
}

/** Remembers that some of a job's dependencies (by their place in its list) ended as they had to, for the time when those jobs are gone. */
export async function noteMet(s: Spool, id: string, met: readonly number[]): Promise<void> {
  await writeNote(s, id, MET, met, false)
}

export async function notedMet(s: Spool, id: string): Promise<readonly number[]> {
  return (await readNote<number[]>(s, id, MET)) ?? []
}

async function readNote<T>(s: Spool, id: string, file: string): Promise<T | undefined> {
  try {
    const { bytes } = await s.fs.readFile(join(s.layout.work, id, file), 1 << 20)
    return JSON.parse(bytes.toString('utf8'))
  } catch (error) {
    if (errno(error) === 'ENOENT' || error instanceof SyntaxError) return undefined
    throw error
  }
}

async function writeNote(s: Spool, id: string, file: string, note: unknown, sync: boolean): Promise<void> {
  const dir = join(s.layout.work, id)
  await ensureDurableDir(s, dir)
  const temp = join(dir, `.${file}.${randomHex(s, 3)}.tmp`)
  await s.fs.writeFile(temp, `${JSON.stringify(note)}\n`, { mode: 0o640, sync })
  await s.fs.rename(temp, join(dir, file))
  if (sync) await s.sync(dir)
}
