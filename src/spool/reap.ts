/** What a dead agent left behind: its half-accepted drops are taken over, its claims go back to new/. */
import { join } from 'node:path'
import { openClaim } from './attempt.ts'
import { errno } from './errors.ts'
import { move, namesIn, removeFile } from './moves.ts'
import { type JobName, parseJobName, renamed } from './names.ts'
import { deadOwners, me } from './owner.ts'
import { randomHex, type Spool } from './spool.ts'
import { commitUnrun, type Ending } from './unrun.ts'

export interface Reaped {
  deadOwners: string[]
  takenOver: number
  /** back in new/ under their next epoch */
  reaped: JobName[]
  /** crashed once too often: committed as failed */
  givenUp: JobName[]
}

/**
 * Takes over from every owner that is dead. The order is the fence: .old/<dead> first, so that it can move no answer any
 * more; then intake/<dead>, so that it can accept nothing; then its claims. Many may try at once: each rename has one winner.
 */
export async function reapDead(s: Spool, ending?: Ending): Promise<Reaped> {
  const out: Reaped = { deadOwners: await deadOwners(s), takenOver: 0, reaped: [], givenUp: [] }
  for (const owner of out.deadOwners) await reapOwner(s, owner, out, ending)
  return out
}

async function reapOwner(s: Spool, dead: string, out: Reaped, ending: Ending | undefined): Promise<void> {
  const l = s.layout
  const mine = me(s).id
  const part = `t-${randomHex(s)}`
  if ((await namesIn(s, l.old, true)).includes(dead)) await move(s, join(l.old, dead), join(l.old, mine, part))
  if ((await namesIn(s, l.intake, true)).includes(dead)) {
    if (await move(s, join(l.intake, dead), join(l.intake, mine, part))) {
      out.takenOver += 1
      s.intake.lastListed = Number.NEGATIVE_INFINITY
    }
    await Promise.all([s.sync(l.intake), s.sync(join(l.intake, mine))])
  }
  const claimed = join(l.claimed, dead)
  for (let round = 0; round < 100; round++) {
    for (const file of await namesIn(s, claimed, true)) {
      const name = parseJobName(file)
      if (name) await reapJob(s, claimed, name, out, ending)
      else await move(s, join(claimed, file), join(l.rejected, `${dead}--${file}`)) // no job of ours: kept, out of the way
    }
    await s.sync(l.new)
    try {
      await s.fs.rmdir(claimed)
    } catch (error) {
      if (errno(error) === 'ENOTEMPTY' || errno(error) === 'EEXIST') continue // a claim of its came in between
      if (errno(error) !== 'ENOENT') throw error
    }
    break
  }
  await s.sync(l.claimed)
  await removeFile(s, join(l.owners, `${dead}.json`))
  s.observed.delete(dead)
}

async function reapJob(
  s: Spool,
  claimed: string,
  name: JobName,
  out: Reaped,
  ending: Ending | undefined,
): Promise<void> {
  const next = renamed(name, { epoch: name.epoch + 1, crashes: name.crashes + 1 })
  const from = join(claimed, name.file)
  if (name.ticket === 0) {
    // It was being cancelled before its time: without a place in its lane nobody could claim it.
    await move(s, from, join(s.layout.held, renamed(next, { due_ms: 0 }).file))
    await s.sync(s.layout.held)
    return
  }
  if (next.crashes <= s.maxCrashes) {
    if (await move(s, from, join(s.layout.new, next.file))) out.reaped.push(next)
    return
  }
  // Once too often: it fails, by the same commit as every outcome.
  const mine = join(s.layout.claimed, me(s).id)
  if (!(await move(s, from, join(mine, next.file)))) return
  await s.sync(mine)
  await giveUp(s, next, ending)
  out.givenUp.push(next)
}

/** Commits a claimed job as failed because the agents that ran it kept dying. */
async function giveUp(s: Spool, name: JobName, ending: Ending | undefined): Promise<void> {
  const c = await openClaim(s, name)
  if (!c) return
  await ending?.(c)
  const message =
    `The agent that ran this job died ${name.crashes} times, which is more than max_crashes (${s.maxCrashes}) allows. ` +
    `Read the agent's journal around these times, then run: vmspool retry ${name.id}`
  await commitUnrun(s, c, 'failed', { code: 'crashed', message, attempt: name.failures + name.crashes })
}
