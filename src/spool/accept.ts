/**
 * Accept: from a taken file to a job that counts. Each step can be cut off anywhere and done again by this agent or the
 * one that takes its folders over; what makes it safe is one token, <id>.job, that exists once and is moved by rename.
 */
import { join, relative } from 'node:path'
import { supersede } from './answers.ts'
import { move, namesIn } from './moves.ts'
import { dependenciesOf } from './after.ts'
import { type JobName, jobName, keyOf, WAITS } from './names.ts'
import type { JobRecord } from './record.ts'
import { randomHex, type Spool } from './spool.ts'
import { drawTicket } from './ticket.ts'

/**
 * Step 1: the canonical job, complete and durable under a temporary name, then renamed to <id>.job; from there on the raw
 * drop is obsolete. fsync of the folder before the raw drop is touched, or power loss could leave neither.
 */
export async function writeToken(s: Spool, folder: string, record: JobRecord): Promise<void> {
  const temp = join(folder, `.${record.id}.${randomHex(s, 4)}.tmp`)
  await s.fs.writeFile(temp, `${JSON.stringify(record)}\n`, { mode: 0o640, sync: true })
  await s.fs.rename(temp, join(folder, `${record.id}.job`))
  await s.sync(folder)
}

export interface Accepted {
  name: JobName
  record: JobRecord
  state: 'new' | 'held' | 'claimed'
}

/**
 * Steps 2 to 4: ticket, earlier answers out of the way, then the one rename that makes it accepted. A rejected drop goes
 * straight into our own claimed/: it fails at once and waits for nobody.
 * Calls in a row draw their tickets in that order.
 * @returns undefined when the token was taken from us (fenced, or another agent finished it)
 */
export async function acceptToken(s: Spool, folder: string, record: JobRecord): Promise<Accepted | undefined> {
  const { id } = record
  const owner = ownerOfFolder(s, folder)
  const token = join(folder, `${id}.job`)
  const key = keyOf(record.answer)
  const due = dueOf(s, record)
  // The next run of a job that repeats: the answers of the last one stay in place until its time has come, and it is accepted again then.
  const planned = record.follows !== undefined && due !== undefined
  let ticket = 0
  if (!planned) {
    const drawn = await drawTicket(s, folder, key, id)
    await supersede(s, owner, record.answer, id, drawn.older)
    ticket = drawn.mine.ticket
  }
  const name = jobName({
    priority: record.manifest.priority ?? 5,
    id,
    key,
    ticket,
    epoch: 0,
    failures: 0,
    crashes: 0,
    ...(due === undefined ? {} : { due_ms: due }),
  })
  const state = record.rejected ? 'claimed' : due === undefined ? 'new' : 'held'
  const dir = state === 'claimed' ? join(s.layout.claimed, owner) : s.layout[state]
  if (!(await move(s, token, join(dir, name.file)))) return undefined
  // Only now may anybody be told: after these two fsyncs no power loss takes the job back or brings the token back.
  await Promise.all([s.sync(dir), s.sync(folder)])
  return { name, record, state }
}

/** Until when a job is held, in ms since 1970; undefined when it may run at once. */
function dueOf(s: Spool, record: JobRecord): number | undefined {
  if (record.rejected) return undefined
  if (dependenciesOf(record).length > 0) return WAITS
  const due = notBefore(record)
  return due !== undefined && due > s.clock.now() ? due : undefined
}

/** The time before which a job must not run, in ms since 1970. */
export function notBefore({ manifest }: Pick<JobRecord, 'manifest'>): number | undefined {
  if (manifest.not_before === undefined) return undefined
  return Math.min(manifest.not_before_ms ?? Date.parse(manifest.not_before), WAITS - 1)
}

/**
 * Whose intake this is. Not "who am I": an agent that was fenced and started anew goes on with its old accepts until they
 * fail, and they must fail.
 */
function ownerOfFolder(s: Spool, folder: string): string {
  return relative(s.layout.intake, folder).split('/')[0]!
}

/**
 * Whether one of these jobs has its ticket and is not accepted yet: its token lies in some intake folder. A folder that is taken
 * over while we look could be missed, so the folders must be the same before and after.
 */
export async function anyInAccept(s: Spool, ids: readonly string[]): Promise<boolean> {
  if (ids.length === 0) return false
  for (;;) {
    const before = await intakeFolders(s, s.layout.intake)
    for (const folder of before) {
      const names = new Set(await namesIn(s, folder, true))
      if (ids.some((id) => names.has(`${id}.job`))) return true
    }
    if ((await intakeFolders(s, s.layout.intake)).join() === before.join()) return false
  }
}

/** Those of these jobs whose token lies in some intake folder; with the same care as above. */
export async function idsInAccept(s: Spool, ids: ReadonlySet<string>): Promise<Set<string>> {
  for (;;) {
    const found = new Set<string>()
    const before = await intakeFolders(s, s.layout.intake)
    for (const folder of before) {
      for (const name of await namesIn(s, folder, true)) {
        const id = /^([0-9A-Z]{26})\.job$/.exec(name)?.[1]
        if (id !== undefined && ids.has(id)) found.add(id)
      }
    }
    if ((await intakeFolders(s, s.layout.intake)).join() === before.join()) return found
  }
}

export async function intakeFolders(s: Spool, dir: string): Promise<string[]> {
  const top = dir === s.layout.intake
  const inside = (await namesIn(s, dir, true)).filter((n) => (top ? !n.startsWith('.') : n.startsWith('t-'))).sort()
  const below = await Promise.all(inside.map((n) => intakeFolders(s, join(dir, n))))
  return top ? below.flat() : [dir, ...below.flat()]
}
