/** Finding out, after a crash, which children of a batch were made. */
import { join } from 'node:path'
import { idsInAccept } from './accept.ts'
import { namesIn } from './moves.ts'
import { OUTCOMES, parseJobName } from './names.ts'
import type { Spool } from './spool.ts'

const TICKET = /^[0-9a-f]{24}\.\d{8,15}-([0-9A-HJKMNP-TV-Z]{26})$/

/**
 * Which of these jobs exist, in whatever state. A job only ever moves forward along: its token in an intake folder; its ticket in a lane,
 * which it holds from before it is accepted until its answer is published; `committed/`; a final folder. The places are looked at in
 * that order, each freshly, so one that exists is found even if it moves while we look. (Between new/, held/ and
 * claimed/ jobs also move back, which is why those are not what is looked at.) Before all that the next run of a job that repeats is a token,
 * lies in held/ without a ticket, and is a token once more.
 */
export async function existingJobs(s: Spool, ids: readonly string[]): Promise<Set<string>> {
  const wanted = new Set(ids)
  if (wanted.size === 0) return wanted
  const planned: string[] = []
  await idsInAccept(s, wanted).then((ids) => planned.push(...ids))
  for (const file of await namesIn(s, s.layout.held, true)) {
    const name = wanted.has(file.slice(16, 42)) ? parseJobName(file) : undefined
    if (name?.ticket === 0) planned.push(name.id)
  }
  const found = await idsInAccept(s, wanted)
  for (const id of planned) found.add(id)
  for (const folder of await namesIn(s, s.layout.lanes, true)) {
    for (const file of await namesIn(s, join(s.layout.lanes, folder), true)) {
      const id = TICKET.exec(file)?.[1]
      if (id !== undefined && wanted.has(id)) found.add(id)
    }
  }
  for (const dir of [s.layout.committed, ...OUTCOMES.map((o) => s.layout[o])]) {
    for (const file of await namesIn(s, dir, true)) {
      // `<priority>-<id>-…`: a million names that nobody asked for cost a look-up each, and no parsing.
      if (!wanted.has(file.slice(2, 28))) continue
      const name = parseJobName(file)
      if (name) found.add(name.id)
    }
  }
  return found
}
