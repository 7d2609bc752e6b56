/** One attempt at a job: claim it, give it back, put it off. */
import { join } from 'node:path'
import { errno } from './errors.ts'
import { ensureDir, move, namesIn } from './moves.ts'
import { type JobName, renamed } from './names.ts'
import { me } from './owner.ts'
import { type JobRecord, readRecord } from './record.ts'
import type { Spool } from './spool.ts'
import { readLane } from './ticket.ts'

export interface Claim {
  name: JobName
  record: JobRecord
  /** who claimed it: an agent that starts anew is another owner, and this claim is not its own */
  owner: string
  /** output/.work/<id>/<epoch>-<owner>/: unique, ours alone */
  attemptDir: string
  answerDir: string
  /** earlier attempts whose folders are still there, oldest first */
  earlier: { dir: string; epoch: number; owner: string }[]
}

export type ClaimResult =
  | { state: 'claimed'; claim: Claim }
  | { state: 'lane-busy'; behind: string }
  | { state: 'gone' }

/**
 * Claims a waiting job if it is the first of its lane. Two agents can try at once: the rename has one winner.
 * fsync before any work: after power loss the epoch that worked must not be handed out a second time.
 */
export async function claim(s: Spool, name: JobName): Promise<ClaimResult> {
  const lane = await readLane(s, name.key, false)
  const at = lane.findIndex((t) => t.id === name.id && t.ticket === name.ticket)
  if (at > 0) return { state: 'lane-busy', behind: lane[0]!.id }
  if (at < 0) return { state: 'gone' } // a listing older than its ticket, or a name older than the job
  if (!(await takeOver(s, join(s.layout.new, name.file), name))) return { state: 'gone' }
  const opened = await openClaim(s, name)
  return opened ? { state: 'claimed', claim: opened } : { state: 'gone' }
}

/** The claiming rename, wherever the job waits. Order in the lane is the caller's business. */
export async function takeOver(s: Spool, from: string, name: JobName): Promise<boolean> {
  const mine = join(s.layout.claimed, me(s).id)
  if (!(await move(s, from, join(mine, name.file)))) return false
  await s.sync(mine)
  return true
}

/**
 * Reads a claimed job and makes its attempt folder. Also for a claim that heartbeat() found.
 * @returns undefined when the job is not ours any more, or when its attempt folder was used already: an attempt is never
 *   worked on twice, so the job was given back under its next epoch.
 */
export async function openClaim(s: Spool, name: JobName): Promise<Claim | undefined> {
  const owner = me(s).id
  let record: JobRecord
  try {
    record = await readRecord(s, join(s.layout.claimed, owner, name.file))
  } catch (error) {
    if (errno(error) === 'ENOENT') return undefined
    throw error
  }
  const jobDir = join(s.layout.work, name.id)
  const attemptDir = join(jobDir, `${name.epoch}-${owner}`)
  const answerDir = join(attemptDir, 'answer')
  const own = join(attemptDir, 'own')
  await ensureDir(s, jobDir)
  await ensureDir(s, attemptDir)
  if ((await s.fs.readdirFresh(attemptDir)).length > 0) {
    await leave(s, { name, owner }, s.layout.new, { epoch: name.epoch + 1 })
    return undefined
  }
  await ensureDir(s, answerDir)
  await ensureDir(s, own)
  const earlier: Claim['earlier'] = []
  for (const dir of await namesIn(s, jobDir)) {
    const m = /^(\d+)-(.+)$/.exec(dir)
    if (m && Number(m[1]) < name.epoch) earlier.push({ dir: join(jobDir, dir), epoch: Number(m[1]), owner: m[2]! })
  }
  earlier.sort((a, b) => a.epoch - b.epoch)
  return { name, record, owner, attemptDir, answerDir, earlier }
}

/** Back to new/ under a new epoch, without blame. */
export async function giveBack(s: Spool, c: Claim): Promise<'new' | 'fenced'> {
  return (await leave(s, c, s.layout.new, { epoch: c.name.epoch + 1 })) ? 'new' : 'fenced'
}

/** A failure that may pass: into held/ until `dueMs` (wall clock), under a new epoch. */
export async function retry(s: Spool, c: Claim, dueMs: number): Promise<'held' | 'fenced'> {
  const change = { epoch: c.name.epoch + 1, failures: c.name.failures + 1, due_ms: dueMs }
  return (await leave(s, c, s.layout.held, change)) ? 'held' : 'fenced'
}

async function leave(
  s: Spool,
  { name, owner }: Pick<Claim, 'name' | 'owner'>,
  dir: string,
  change: Partial<JobName>,
): Promise<boolean> {
  const from = join(s.layout.claimed, owner, name.file)
  if (!(await move(s, from, join(dir, renamed(name, change).file)))) return false
  await s.sync(dir)
  return true
}
