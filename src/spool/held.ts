/**
 * Held jobs: those that wait for a time and those that wait for an event. The folder is listed the less often the longer that takes, so
 * that hundreds of thousands of them cost a small share of each second; what is due in between is known from the last listing.
 */
import { join } from 'node:path'
import { move, namesIn } from './moves.ts'
import { type JobName, parseJobName, renamed, WAITS } from './names.ts'
import { me } from './owner.ts'
import type { Spool } from './spool.ts'

/** What one agent knows of held/. */
export interface HeldNames {
  /** names that wait for a time, the earliest last */
  timed: string[]
  /** names that wait for an event */
  waiting: readonly string[]
  /** counts the listings */
  listings: number
  listedAt: number
  interval: number
}

export function heldNames(): HeldNames {
  return { timed: [], waiting: [], listings: 0, listedAt: Number.NEGATIVE_INFINITY, interval: 0 }
}

/** A listing may take a fiftieth of the time. */
const SHARE = 50
const LONGEST_MS = 60_000
const FOREVER = `${WAITS}-`

async function list(s: Spool, h: HeldNames): Promise<void> {
  const began = s.clock.mono()
  if (began - h.listedAt < h.interval) return
  h.listedAt = began // also when it fails
  const timed: string[] = []
  const waiting: string[] = []
  for (const file of await namesIn(s, s.layout.held)) (file.startsWith(FOREVER) ? waiting : timed).push(file)
  h.timed = timed.sort().reverse()
  h.waiting = waiting
  h.listings += 1
  h.listedAt = s.clock.mono()
  h.interval = Math.min(LONGEST_MS, Math.max(900, (h.listedAt - began) * SHARE))
}

/**
 * Moves held jobs whose time has come to new/. The next run of a job that repeats has no place in its lane yet: it goes back to being a
 * token in our own intake folder, and the next round of the intake accepts it like a drop.
 * @returns those that wait for an agent now
 */
export async function promoteDue(s: Spool, h: HeldNames = heldNames()): Promise<JobName[]> {
  await list(s, h)
  const intake = join(s.layout.intake, me(s).id)
  const due: JobName[] = []
  for (let file = h.timed.at(-1); file !== undefined; file = h.timed.at(-1)) {
    const name = parseJobName(file)
    if (name && (name.due_ms ?? 0) > s.clock.now()) break
    if (name?.ticket === 0) {
      if (await move(s, join(s.layout.held, file), join(intake, `${name.id}.job`))) {
        s.intake.lastListed = Number.NEGATIVE_INFINITY
        await s.sync(intake)
      }
    } else if (name) {
      const next = renamed(name, {})
      if (await move(s, join(s.layout.held, file), join(s.layout.new, next.file))) due.push(next)
    }
    h.timed.pop()
  }
  if (due.length > 0) await s.sync(s.layout.new)
  return due
}
