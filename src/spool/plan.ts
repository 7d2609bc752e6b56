/**
 * The order of dispatch, kept in memory. new/ is listed at the start and then the less often the larger it is, so that a
 * dispatch costs the same with a thousand or a million jobs waiting. The plan is a hint: only the claim decides.
 */
import { type JobName, parseJobName } from './names.ts'
import type { Spool } from './spool.ts'

export interface Plan {
  /** jobs known to wait, those set aside included */
  readonly size: number
  add(name: JobName): void
  /** takes the next job out of the plan */
  next(): JobName | undefined
  /** sets a job aside until its lane moves on */
  block(name: JobName): void
  /** a job of this lane ended or left: its next may be tried */
  release(key: string): void
  /** sets a job aside until its group has a place */
  park(name: JobName, group: string): void
  /** so many of those that wait for a place in this group may be tried, the first in order before the others */
  unpark(group: string, most: number): void
  /** the group that a job was set aside for */
  parkedAs(name: JobName): string | undefined
  parkedGroups(): string[]
  parkedIn(group: string): number
  /** some of those of each group that wait for a place in it, the longest first */
  firstParked(most: number): { name: JobName; group: string }[]
  /** lists new/ again when it is time (or `force`) */
  refresh(force?: boolean): Promise<void>
  /** how many lanes wait for a job of theirs to end */
  blockedLanes(): number
}

export async function makePlan(s: Spool): Promise<Plan> {
  let sorted: string[] = [] // descending: the next one is popped from the end
  const heap: string[] = []
  const known = new Set<string>() // names added since the last listing
  const blocked = new Map<string, string[]>()
  let blockedCount = 0
  /** names that wait for a place in their group, each group a heap */
  const parked = new Map<string, string[]>()
  const groupOf = new Map<string, string>()
  let listedAt = Number.NEGATIVE_INFINITY
  let interval = 1_000

  /** Who waits for a place in a group goes on waiting; who has left new/ is forgotten. */
  function keepParked(listed: ReadonlySet<string>): void {
    for (const [group, files] of parked) {
      const left = files.filter((file) => listed.has(file) || !groupOf.delete(file)).sort()
      if (left.length > 0) parked.set(group, left)
      else parked.delete(group)
    }
  }

  const plan: Plan = {
    get size() {
      return sorted.length + heap.length + blockedCount + groupOf.size
    },
    add(name) {
      if (known.has(name.file)) return
      known.add(name.file)
      push(heap, name.file)
    },
    next() {
      for (;;) {
        const a = sorted.at(-1)
        const b = heap[0]
        if (a === undefined && b === undefined) return undefined
        let file: string
        if (b === undefined || (a !== undefined && a <= b)) {
          file = sorted.pop()!
          if (a === b) pop(heap)
        } else file = pop(heap)
        const name = parseJobName(file)
        if (name) return name
      }
    },
    block(name) {
      const lane = blocked.get(name.key)
      if (lane) lane.push(name.file)
      else blocked.set(name.key, [name.file])
      blockedCount += 1
    },
    release(key) {
      const lane = blocked.get(key)
      if (!lane) return
      blocked.delete(key)
      blockedCount -= lane.length
      for (const file of lane) push(heap, file)
    },
    park(name, group) {
      if (groupOf.has(name.file)) return
      groupOf.set(name.file, group)
      const files = parked.get(group)
      if (files) push(files, name.file)
      else parked.set(group, [name.file])
    },
    unpark(group, most) {
      const files = parked.get(group)
      for (let n = 0; files && n < most && files.length > 0; n++) {
        const file = pop(files)
        groupOf.delete(file)
        push(heap, file)
      }
      if (files?.length === 0) parked.delete(group)
    },
    parkedAs: (name) => groupOf.get(name.file),
    parkedGroups: () => [...parked.keys()],
    parkedIn: (group) => parked.get(group)?.length ?? 0,
    firstParked(most) {
      const out: { name: JobName; group: string }[] = []
      const taken = new Map<string, number>()
      for (const [file, group] of groupOf) {
        const n = taken.get(group) ?? 0
        if (n >= most) continue
        taken.set(group, n + 1)
        out.push({ name: parseJobName(file)!, group })
      }
      return out
    },
    async refresh(force = false) {
      const now = s.clock.mono()
      if (!force && now - listedAt < interval) return
      listedAt = now // also when it fails: no hot loop on a broken disk
      const files = await s.fs.readdir(s.layout.new)
      if (groupOf.size > 0) keepParked(new Set(files))
      sorted = files
        .filter((file) => !groupOf.has(file))
        .sort()
        .reverse()
      heap.length = 0
      known.clear()
      blocked.clear()
      blockedCount = 0
      // A listing may take a hundredth of the time, an idle spool is looked at every second, and a process that was stopped
      // in the middle of a listing must not take that for its cost.
      interval = Math.min(300_000, Math.max(1_000, (s.clock.mono() - now) * 100))
      listedAt = s.clock.mono()
    },
    blockedLanes: () => blocked.size,
  }
  await plan.refresh(true)
  return plan
}

/** Binary heaps of names, the smallest at [0]. */
function push(heap: string[], file: string): void {
  heap.push(file)
  let i = heap.length - 1
  while (i > 0) {
    const up = (i - 1) >> 1
    if (heap[up]! <= heap[i]!) break
    ;[heap[up], heap[i]] = [heap[i]!, heap[up]!]
    i = up
  }
}

function pop(heap: string[]): string {
  const top = heap[0]!
  const last = heap.pop()!
  if (heap.length === 0) return top
  heap[0] = last
  let i = 0
  for (;;) {
    let low = i
    for (const child of [2 * i + 1, 2 * i + 2]) if (child < heap.length && heap[child]! < heap[low]!) low = child
    if (low === i) return top
    ;[heap[low], heap[i]] = [heap[i]!, heap[low]!]
    i = low
  }
}
