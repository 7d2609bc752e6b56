/** Which jobs have a name, in the order in which they were taken: what `after: [NAME]` means. */
import { join } from 'node:path'
import { intakeFolders } from './accept.ts'
import { namesIn } from './moves.ts'
import { laneFolder, laneOf, OUTCOMES, type Outcome, parseJobName } from './names.ts'
import type { Spool } from './spool.ts'
import { readLane } from './ticket.ts'

export interface NamedJob {
  id: string
  /** of a job that is over */
  outcome?: Outcome
}

const TICKET = /^([0-9a-f]{24})\.\d{8,15}-([0-9A-HJKMNP-TV-Z]{26})$/
/** Above this many names all lanes are listed, which are a few thousand folders. */
const MANY_KEYS = 2_000

/**
 * The jobs of these keys, oldest first. As in existingJobs(), the places are looked at in the order in which a job passes them, each
 * freshly, so one that is accepted (or was started without an agent) is found even if it moves meanwhile. A later run of a job that
 * repeats does not count before its time has come. Costs a pass over the names of all ended jobs.
 */
export async function jobsNamed(s: Spool, keys: ReadonlySet<string>): Promise<Map<string, NamedJob[]>> {
  const found = new Map<string, Map<string, NamedJob>>()
  if (keys.size === 0) return new Map()
  const note = (key: string, job: NamedJob): void => {
    const jobs = found.get(key)
    if (jobs) jobs.set(job.id, job)
    else found.set(key, new Map([[job.id, job]]))
  }
  const folders =
    keys.size > MANY_KEYS ? await namesIn(s, s.layout.lanes, true) : new Set([...keys].map((key) => laneFolder(key)))
  for (const folder of folders) {
    for (const file of await namesIn(s, join(s.layout.lanes, folder), true)) {
      const [, key, id] = TICKET.exec(file) ?? []
      if (key !== undefined && keys.has(key)) note(key, { id: id! })
    }
  }
  for (const dir of [s.layout.started, s.layout.committed]) {
    for (const file of await namesIn(s, dir, true)) {
      const name = parseJobName(file)
      if (name && keys.has(name.key)) note(name.key, { id: name.id })
    }
  }
  for (const outcome of OUTCOMES) {
    for (const file of await namesIn(s, s.layout[outcome], true)) {
      // `<priority>-<id>-<key>-…`: a million names that nobody asked for cost a look-up each, and no parsing.
      if (!keys.has(file.slice(29, 53))) continue
      const name = parseJobName(file)
      if (name) note(name.key, { id: name.id, outcome })
    }
  }
  return new Map([...found].map(([key, jobs]) => [key, [...jobs.values()].sort((a, b) => (a.id < b.id ? -1 : 1))]))
}

/**
 * The oldest drop that was taken and is not accepted yet, by any agent; undefined when there is none. Whoever was taken before it is
 * accepted, and can be found by its name: look here before.
 */
export async function oldestUnaccepted(s: Spool): Promise<string | undefined> {
  for (;;) {
    let oldest: string | undefined
    const before = await intakeFolders(s, s.layout.intake)
    for (const folder of before) {
      for (const file of await namesIn(s, folder, true)) {
        const id = /^([0-9A-HJKMNP-TV-Z]{26})(?:--|\.job$)/.exec(file)?.[1]
        if (id !== undefined && (oldest === undefined || id < oldest)) oldest = id
      }
    }
    if ((await intakeFolders(s, s.layout.intake)).join() === before.join()) return oldest
  }
}

/** The jobs of an answer name's key that are accepted and not over, in the order of acceptance. Costs one listing. */
export async function unfinishedOf(s: Spool, key: string): Promise<string[]> {
  return (await readLane(s, key, true)).map((t) => t.id)
}

/** The lanes that have more than one job, each as ids in the order of acceptance. */
export async function crowdedLanes(s: Spool): Promise<string[][]> {
  const out: string[][] = []
  for (const folder of await namesIn(s, s.layout.lanes)) {
    const files = await namesIn(s, join(s.layout.lanes, folder))
    if (files.length < 2) continue
    const byKey = new Map<string, string[]>()
    for (const file of files) {
      const key = file.slice(0, 24)
      const lane = byKey.get(key)
      if (lane) lane.push(file)
      else byKey.set(key, [file])
    }
    for (const [key, names] of byKey) if (names.length > 1) out.push(laneOf(names, key).map((t) => t.id))
  }
  return out
}
