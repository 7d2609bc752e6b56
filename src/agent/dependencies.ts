import { batchSuffix } from '../manifest/safe-name.ts'
import {
  type Accepted,
  type Claim,
  dependenciesText,
  endWaiting,
  existingJobs,
  type JobName,
  type JobRecord,
  jobsNamed,
  keyOf,
  type NamedJob,
  notedMet,
  noteMet,
  oldestUnaccepted,
  parseJobName,
  releaseWaiting,
  type Spool,
  ULID,
  type Unrun,
} from '../spool/index.ts'
import { cyclesOf } from './dependency-cycles.ts'
import { endOf, isStarted, readIfThere } from './dependency-ends.ts'
import { type Dep, type End, newWaiter, unrunCycle, unrunFor, type Waiter } from './dependency-words.ts'

export interface DependencyEvents {
  /** it is about to wait for an agent (new/), or for its own time (held/) */
  releasing(name: JobName, dueMs: number | undefined): Promise<void>
  released(name: JobName): void
  /** before its end is committed */
  ending?(c: Claim): Promise<unknown>
  ended(name: JobName, record: JobRecord, how: Unrun): void
  /** what it waits for, in words; false: not told yet */
  say(name: JobName, waitingOn: string): Promise<void>
  /** before a job is claimed to be ended, and after: a heartbeat must not take it for a claim that was forgotten */
  reserve(id: string, on: boolean): void
}

export interface Dependencies {
  /** a job of held/ that was accepted here */
  add(a: Accepted): void
  /** a job was published here: whoever waits for it is looked at in the next round */
  ended(id: string): void
  /**
   * Takes in a listing of held/ and does what can be done in a short time.
   * @returns whether there is more to do at once
   */
  round(held: { waiting: readonly string[]; listings: number }): Promise<boolean>
  readonly size: number
}

/** What one round does at most, and how long it works on ends and releases, in ms. */
const LOADS = 1_000
const LOOKS = 256
const SAYS = 200
const BINDS = 10_000
const BUDGET_MS = 250
const AT_ONCE = 16
/** A pass over all names, or over all who wait, may take a twentieth of the time, but comes at least once a minute. */
const SHARE = 20
const LONGEST_MS = 60_000
const QUIET_MS = 5_000

/** A job that is waited for and not known to be over. */
interface Target {
  waiters: Set<Waiter>
  /** there was a trace of it */
  exists: boolean
}

export function createDependencies(s: Spool, on: DependencyEvents): Dependencies {
  const waiters = new Map<string, Waiter>()
  /** jobs that are waited for and not known to be over, by id */
  const targets = new Map<string, Target>()
  const unbound = new Set<Waiter>()
  const ready = new Map<Waiter, Unrun | 'release'>()
  let toLoad: string[] = []
  let queue: Iterator<string> | undefined
  const news = new Set<string>()
  const untold = new Set<Waiter>()
  let listing = -1
  let edges = false
  let nextScan = Number.NEGATIVE_INFINITY
  let nextCycles = Number.NEGATIVE_INFINITY
  const suspects = new Set<string>()

  const after = (began: number): number => {
    const now = s.clock.mono()
    return now + Math.min(LONGEST_MS, (now - began) * SHARE)
  }

  function enter(w: Waiter): void {
    waiters.set(w.name.id, w)
    for (const d of w.deps) {
      if (d.state === 'met') continue
      if (ULID.test(d.job)) bind(w, d, d.job)
      else unbound.add(w)
    }
    untold.add(w)
    settle(w)
  }

  function leave(w: Waiter): void {
    if (waiters.get(w.name.id) !== w) return
    waiters.delete(w.name.id)
    for (const d of w.deps) unhook(w, d.target)
    unbound.delete(w)
    ready.delete(w)
    untold.delete(w)
  }

  function unhook(w: Waiter, target: string | undefined): void {
    if (target === undefined) return
    const waiting = targets.get(target)?.waiters
    waiting?.delete(w)
    if (waiting?.size === 0) targets.delete(target)
  }

  function bind(w: Waiter, d: Dep, id: string): void {
    d.target = id
    d.state = 'open'
    const target = targets.get(id)
    if (target) target.waiters.add(w)
    else targets.set(id, { waiters: new Set([w]), exists: false })
    news.add(id)
    untold.add(w)
    edges = true
  }

  /** How the job ended that some wait for. */
  function over(id: string, end: End): void {
    const target = targets.get(id)
    if (!target) return
    targets.delete(id)
    for (const w of target.waiters) {
      let some = false
      for (const d of w.deps) {
        if (d.target !== id || d.state !== 'open') continue
        const unrun = unrunFor(d, id, end)
        if (unrun) ready.set(w, unrun)
        else d.state = 'met'
        some = true
      }
      if (!some) continue
      untold.add(w)
      w.changed = true
      settle(w)
    }
  }

  function settle(w: Waiter): void {
    if (!ready.has(w) && w.deps.every((d) => d.state === 'met')) ready.set(w, 'release')
  }

  /** The names of held/, when they were listed anew: who is new is read, who is gone is forgotten. */
  function takeIn(held: { waiting: readonly string[]; listings: number }): void {
    if (held.listings === listing) return
    listing = held.listings
    const there = new Set<string>()
    toLoad = []
    for (const file of held.waiting) {
      const id = file.slice(16, 42)
      there.add(id)
      if (!waiters.has(id)) toLoad.push(file)
    }
    for (const [id, w] of waiters) {
      // One that was accepted after this listing was begun is in the next one.
      if (w.seen && !there.has(id)) leave(w)
      w.seen = true
    }
  }

  async function load(): Promise<void> {
    const files = toLoad.splice(0, LOADS)
    for (let i = 0; i < files.length; i += 64) {
      await Promise.all(
        files.slice(i, i + 64).map(async (file) => {
          const name = parseJobName(file)
          if (!name || waiters.has(name.id)) return
          const record = await readIfThere(s, file)
          if (!record) return
          const w = newWaiter(name, record)
          if (w.deps.length > 1) for (const i of await notedMet(s, name.id)) if (w.deps[i]) w.deps[i].state = 'met'
          if (!waiters.has(name.id)) enter(w)
        }),
      )
    }
  }

  /** Finds the jobs that names mean. Certain, and the dearer the more jobs have ended, so it takes its share of time and no more. */
  async function bindNames(): Promise<void> {
    if ((unbound.size === 0 && suspects.size === 0) || s.clock.mono() < nextScan) return
    const began = s.clock.mono()
    // Before the look: whoever was taken before this one is accepted, and is found.
    const floor = await oldestUnaccepted(s)
    const some = firstOf(unbound, BINDS, (w) => floor === undefined || w.name.id < floor)
    const keys = new Set(some.flatMap((w) => w.deps.filter((d) => d.state === 'unbound').flatMap((d) => keysOf(d.job))))
    const jobs = await jobsNamed(s, keys)
    for (const w of some) if (unbound.has(w)) bindAll(w, jobs)
    if (suspects.size > 0) await lookForMissing()
    // Who was passed over is next: what was found costs little, it is the looking that does.
    nextScan = some.length === BINDS ? began : after(began)
  }

  function bindAll(w: Waiter, jobs: ReadonlyMap<string, readonly NamedJob[]>): void {
    for (const d of w.deps) {
      if (d.state !== 'unbound') continue
      const named = keysOf(d.job).flatMap((key) => jobs.get(key) ?? [])
      const others = named.filter((j) => j.id !== w.name.id).sort((a, b) => (a.id < b.id ? -1 : 1))
      const before = others.findLast((j) => j.id < w.name.id)
      if (before === undefined && keysOf(d.job).includes(w.name.key)) ready.set(w, unrunCycle([w]))
      const job = before ?? others[0]
      if (job === undefined) {
        d.none = true
        untold.add(w)
      } else bind(w, d, job.id)
    }
    if (!w.deps.some((d) => d.state === 'unbound')) unbound.delete(w)
    settle(w)
  }

  /** Ids of which nothing was found: do these jobs exist at all? */
  async function lookForMissing(): Promise<void> {
    const ids = [...suspects]
    suspects.clear()
    const there = await existingJobs(s, ids)
    for (const id of ids) {
      if (!there.has(id) && !(await isStarted(s, id))) {
        // Its end may have been published, and its record removed, between the two looks.
        over(id, (await endOf(s, id)).end ?? { state: 'missing' })
      }
    }
  }

  /** Looks at jobs that are waited for: first of whom there is news, then of the others in turn. */
  async function lookAtTargets(): Promise<void> {
    const ids: string[] = []
    for (const id of news) {
      if (ids.length >= LOOKS) break
      news.delete(id)
      if (targets.has(id)) ids.push(id)
    }
    queue ??= targets.keys()
    for (let n = 0; n < LOOKS && ids.length < LOOKS; n++) {
      const { value, done } = queue.next()
      if (done) {
        queue = undefined
        break
      }
      // Those that wait themselves cannot be over; when they are, their end is seen.
      if (!waiters.has(value)) ids.push(value)
    }
    for (let i = 0; i < ids.length; i += 64) {
      await Promise.all(
        ids.slice(i, i + 64).map(async (id) => {
          const target = targets.get(id)
          if (!target) return
          const { end, exists } = await endOf(s, id, target.exists)
          target.exists = exists
          if (end) over(id, end)
          else if (!exists && !waiters.has(id)) suspects.add(id)
        }),
      )
    }
  }

  async function findCycles(): Promise<void> {
    const began = s.clock.mono()
    // Now and then also without news of ours: a job that was accepted behind one that waits can close a circle.
    if (targets.size === 0 || began < nextCycles || (!edges && began < nextCycles + QUIET_MS)) return
    edges = false
    for (const cycle of await cyclesOf(s, waiters)) for (const w of cycle) ready.set(w, unrunCycle(cycle))
    nextCycles = after(began)
  }

  async function carryOut(): Promise<void> {
    const until = s.clock.mono() + BUDGET_MS
    const failed: unknown[] = []
    while (ready.size > 0 && failed.length === 0) {
      const batch = firstOf(ready, AT_ONCE)
      await Promise.all(
        batch.map(async ([w, how]) => {
          await (how === 'release' ? release(w) : end(w, how)).catch((e) => failed.push(e))
        }),
      )
      if (s.clock.mono() > until) break
    }
    if (failed.length > 0) throw failed[0]
  }

  async function release(w: Waiter): Promise<void> {
    await on.releasing(w.name, w.notBefore)
    const next = await releaseWaiting(s, w.name, w.notBefore)
    leave(w)
    if (next) on.released(next)
  }

  async function end(w: Waiter, how: Unrun): Promise<void> {
    on.reserve(w.name.id, true)
    try {
      const record = await endWaiting(s, w.name, how, on.ending)
      leave(w)
      if (record) on.ended(w.name, record, how)
    } finally {
      on.reserve(w.name.id, false)
    }
  }

  async function tell(): Promise<void> {
    const some = firstOf(untold, SAYS)
    await Promise.all(
      some.map(async (w) => {
        untold.delete(w)
        if (!waiters.has(w.name.id)) return
        if (w.changed && w.deps.length > 1) {
          w.changed = false
          await noteMet(
            s,
            w.name.id,
            w.deps.flatMap((d, i) => (d.state === 'met' ? [i] : [])),
          )
        }
        const text = waitingText(w)
        if (text === w.said) return
        await on.say(w.name, text)
        w.said = text
      }),
    )
  }

  return {
    add({ name, record }) {
      const w = newWaiter(name, record)
      if (!waiters.has(name.id)) enter(w)
    },
    ended(id) {
      if (targets.has(id)) news.add(id)
    },
    async round(held) {
      takeIn(held)
      await load()
      await bindNames()
      await lookAtTargets()
      await findCycles()
      await carryOut()
      await tell()
      return toLoad.length > 0 || ready.size > 0 || news.size > 0 || untold.size > 0
    },
    get size() {
      return waiters.size + toLoad.length
    },
  }
}

function firstOf<T>(all: Iterable<T>, most: number, which?: (x: T) => boolean): T[] {
  const out: T[] = []
  for (const x of all) {
    if (out.length >= most) break
    if (which === undefined || which(x)) out.push(x)
  }
  return out
}

/** Many wait for the same few names. */
const keys = new Map<string, string[]>()
function keysOf(name: string): string[] {
  let known = keys.get(name)
  if (known === undefined) {
    if (keys.size >= BINDS) keys.clear()
    known = [keyOf(name), keyOf(name + batchSuffix)]
    keys.set(name, known)
  }
  return known
}

function waitingText(w: Waiter): string {
  const open = w.deps.filter((d) => d.state !== 'met')
  return dependenciesText(open, (d) => {
    const { target, none, job } = d as Dep
    if (target !== undefined) return target === job ? '' : ` (job ${target})`
    return none ? ' (there is no job of that name yet)' : ''
  })
}
