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
  /** lists new/ again when it is time (or `force`) */
  refresh(force?: boolean): Promise<void>
  /** how many lanes wait for a job of theirs to end */
  blockedLanes(): number
}

export async function makePlan(s: Spool): Promise<Plan> {
  let sorted: string[] = [] // descending: the next one is popped from the end
  let heap: string[] = []
  const known = new Set<string>() // names added since the last listing
  const blocked = new Map<string, string[]>()
  let blockedCount = 0
  let listedAt = Number.NEGATIVE_INFINITY
  let interval = 1_000

  function push(file: string): void {
    heap.push(file)
    let i = heap.length - 1
    while (i > 0) {
      const up = (i - 1) >> 1
      if (heap[up]! <= heap[i]!) break
      ;[heap[up], heap[i]] = [heap[i]!, heap[up]!]
      i = up
    }
  }

  function pop(): string {
    const top = heap[0]!
    const last = heap.pop()!
    if (heap.length > 0) {
      heap[0] = last
      let i = 0
      for (;;) {
        let low = i
        for (const child of [2 * i + 1, 2 * i + 2]) if (child < heap.length && heap[child]! < heap[low]!) low = child
        if (low === i) break
        ;[heap[low], heap[i]] = [heap[i]!, heap[low]!]
        i = low
      }
    }
    return top
  }

  const plan: Plan = {
    get size() {
      return sorted.length + heap.length + blockedCount
    },
    add(name) {
      if (known.has(name.file)) return
      known.add(name.file)
      push(name.file)
    },
    next() {
      for (;;) {
        const a = sorted.at(-1)
        const b = heap[0]
        if (a === undefined && b === undefined) return undefined
        let file: string
        if (b === undefined || (a !== undefined && a <= b)) {
          file = sorted.pop()!
          if (a === b) pop()
        } else file = pop()
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
      for (const file of lane) push(file)
    },
    async refresh(force = false) {
      const now = s.clock.mono()
      if (!force && now - listedAt < interval) return
      listedAt = now // also when it fails: no hot loop on a broken disk
      const files = await s.fs.readdir(s.layout.new)
      sorted = files.sort().reverse()
      heap = []
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
