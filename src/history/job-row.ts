/** One finished job, as the files of its spool tell it: its status, its result, and its record when we may read that. */
import { join } from 'node:path'
import type { FoundJob } from '../spool/find.ts'
import type { Layout } from '../spool/layout.ts'
import { jobName, keyOf, type JobName, type Outcome } from '../spool/names.ts'
import { masked, shownValue } from '../text/secret.ts'
import type { ReadText } from './read-text.ts'

/** The columns of table `job` that come from the files. Times are ms since 1970, durations ms, sizes bytes. */
export interface JobRow {
  id: string
  name: string
  kind: string
  state: 'succeeded' | 'failed' | 'cancelled' | 'rejected'
  exit_code: number | null
  signal: string | null
  pid: number | null
  host: string | null
  /** JSON: the program and its arguments */
  command: string | null
  cwd: string | null
  /** JSON: [[name, value], …], what the manifest names; secrets masked */
  env: string | null
  group_name: string | null
  parent: string | null
  uid: number | null
  accepted_ms: number | null
  started_ms: number | null
  finished_ms: number | null
  duration_ms: number | null
  bytes_in: number | null
  bytes_out: number | null
  attempt: number | null
  error_code: string | null
  error_text: string | null
  ghost_id: string | null
  /** the parts of the record's file name that do not follow from id and name; null when the record was not found */
  priority: number | null
  ticket: number | null
  epoch: number | null
  failures: number | null
  crashes: number | null
}

export const columns = [
  'id name kind state exit_code signal pid host command cwd env group_name parent uid accepted_ms started_ms finished_ms duration_ms',
  'bytes_in bytes_out attempt error_code error_text ghost_id priority ticket epoch failures crashes',
]
  .join(' ')
  .split(' ') as readonly (keyof JobRow)[]

const outcomeOf = { succeeded: 'done', failed: 'failed', cancelled: 'cancelled', rejected: 'rejected' } as const
const stateOf = { done: 'succeeded', failed: 'failed', cancelled: 'cancelled', rejected: 'rejected' } as const
type Fields = Record<string, unknown>

/** More of an error than this is in the job's own files. */
const MAX_ERROR = 16_384

/**
 * Reads a job that has ended. `record` is its file and the folder in which that was found, when they are known: without it the record of a
 * job that ran without an agent is found by what its status says, others are indexed without what only a record tells.
 * @returns undefined when the files do not say that it has ended, or are gone
 */
export async function readJob(
  layout: Layout,
  id: string,
  read: ReadText,
  record?: { name: JobName; outcome?: Outcome },
): Promise<JobRow | undefined> {
  const dir = join(layout.outputJobs, id)
  const status = parse(await read(join(dir, 'status.json')))
  const result = parse(await read(join(dir, 'result.json')))
  const state = record?.outcome ? stateOf[record.outcome] : (finalState(status?.state) ?? finalState(result?.state))
  if (state === undefined) return undefined
  const said = { ...status, ...result, ...(finalState(status?.state) === state ? status : {}) }
  const name = record?.name ?? (text(said.name) === null ? undefined : directName(id, said))
  const file = name && parse(await read(join(layout[outcomeOf[state]], name.file)))
  if (!file && !status && !result) return undefined // removed while we came
  return rowOf(id, state, said, result, file, file ? name : undefined)
}

/** Where the record of an indexed job lies; undefined when that is not known. */
export function foundJob(
  layout: Layout,
  row: Pick<JobRow, 'id' | 'name' | 'state' | 'ticket'> & Fields,
): FoundJob | undefined {
  if (row.ticket === null) return undefined
  const state = outcomeOf[row.state]
  const { priority, ticket, epoch, failures, crashes } = row as unknown as JobName
  const name = jobName({ id: row.id, key: keyOf(row.name), priority, ticket, epoch, failures, crashes })
  return { name, state, path: join(layout[state], name.file) }
}

/** The record's name of a job that ran without an agent: it has no ticket and one attempt. */
function directName(id: string, said: Fields): JobName {
  return jobName({
    id,
    key: keyOf(String(said.name)),
    priority: number(said.priority) ?? 5,
    ticket: 0,
    epoch: number(said.epoch) ?? 1,
    failures: 0,
    crashes: 0,
  })
}

function rowOf(
  id: string,
  state: JobRow['state'],
  said: Fields,
  result: Fields | undefined,
  record: Fields | undefined,
  name: JobName | undefined,
): JobRow {
  const drop = object(record?.drop)
  const manifest = object(record?.manifest)
  const command = object(manifest?.command)
  const error = object(result?.error)
  const started = time(said.started_at)
  const finished = time(said.finished_at)
  const message = text(error?.message) ?? (state === 'succeeded' ? null : text(said.reason))
  const hint = text(error?.hint)
  return {
    id,
    name: text(said.name) ?? text(record?.answer) ?? id,
    kind: text(said.kind) ?? text(record?.kind) ?? 'convert',
    state,
    exit_code: number(said.exit_code),
    signal: text(said.signal),
    pid: number(said.pid),
    host: text(said.host),
    command: argv(said.command) ?? argv(command?.argv) ?? shell(command?.shell),
    cwd: text(said.cwd) ?? text(command?.cwd),
    env: command ? environment(command) : null,
    group_name: text(said.group) ?? text(manifest?.group),
    parent: text(said.parent) ?? text(object(record?.parent)?.id),
    uid: number(drop?.uid),
    accepted_ms: time(said.accepted_at) ?? time(drop?.at),
    started_ms: started,
    finished_ms: finished,
    duration_ms: number(result?.duration_ms),
    bytes_in: sum(result?.disks, 'actual_bytes') ?? (drop?.bare === true ? number(drop.bytes) : null),
    bytes_out: sum(result?.artifacts, 'size_bytes'),
    attempt: number(said.attempt),
    error_code: text(error?.code),
    error_text: message === null ? null : (hint === null ? message : `${message}\n${hint}`).slice(0, MAX_ERROR),
    ghost_id: text(object(manifest?.labels)?.ghost_id),
    priority: name?.priority ?? null,
    ticket: name?.ticket ?? null,
    epoch: name?.epoch ?? null,
    failures: name?.failures ?? null,
    crashes: name?.crashes ?? null,
  }
}

/** What the manifest adds to the environment, as Ghost writes it: [[name, value], …]. Nothing of a secret but its name. */
function environment(command: Fields): string | null {
  const pairs: [string, string][] = Object.entries(object(command.env) ?? {}).map(([name, value]) => {
    return [name, typeof value === 'string' ? shownValue(name, value) : masked]
  })
  if (Array.isArray(command.secret_env)) for (const name of command.secret_env) pairs.push([String(name), masked])
  return pairs.length === 0 ? null : JSON.stringify(pairs)
}

function parse(source: string | undefined): Fields | undefined {
  if (source === undefined) return undefined
  try {
    return object(JSON.parse(source))
  } catch {
    return undefined
  }
}

function finalState(value: unknown): JobRow['state'] | undefined {
  return typeof value === 'string' && Object.hasOwn(outcomeOf, value) ? (value as JobRow['state']) : undefined
}
function object(value: unknown): Fields | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Fields) : undefined
}
function text(value: unknown): string | null {
  return typeof value === 'string' && value !== '' ? value : null
}
/** Integers alone: SQLite's STRICT tables take nothing else in such a column, and one bad file must not hold up the others. */
function number(value: unknown): number | null {
  return typeof value === 'number' && Number.isSafeInteger(Math.round(value)) ? Math.round(value) : null
}
function time(value: unknown): number | null {
  return typeof value === 'string' ? number(Date.parse(value)) : null
}
function argv(value: unknown): string | null {
  return Array.isArray(value) && value.length > 0 ? JSON.stringify(value.map(String)) : null
}
function shell(value: unknown): string | null {
  return typeof value === 'string' ? JSON.stringify(['/bin/sh', '-c', value]) : null
}
function sum(list: unknown, field: string): number | null {
  if (!Array.isArray(list) || list.length === 0) return null
  return number(list.reduce((n: number, x) => n + (number(object(x)?.[field]) ?? 0), 0))
}
