/**
 * All jobs of a spool, kept up to date with little reading: what changed is told by the event file and by watches; a status is read
 * when its job is on the screen or something happened to it, and at most so many a second. Listing the folders is the truth behind
 * that, the less often the longer it takes.
 */
import { indexedJobs } from '../../client/history.ts'
import { watchAgents } from '../../client/liveness.ts'
import { type JobStateName, type JobStatus, jobIds, settled, statusOf } from '../../client/status.ts'
import type { Place } from '../../client/place.ts'
import { isPaused } from '../../spool/control.ts'
import { endOfEvents, type EventsPosition, readEvents } from '../../spool/events.ts'
import { type FoundJob, listJobs as listFolders, locate } from '../../spool/find.ts'
import { statusOf as foldersStatus } from '../../spool/status.ts'
import { budget } from './budget.ts'
import { soon, type Watches, watchFolders } from './watch.ts'

export interface Jobs {
  /** newest first; the same array as long as none came or went */
  ids(): readonly string[]
  /** as last read; undefined before it was */
  status(id: string): JobStatus | undefined
  /** rises with each change of a job */
  version(): number
  /** `more`: older ones are left out */
  counts(): { known: number; read: number; more: boolean }
  /** whether the instance is paused, and whether an agent lives that could take what waits */
  agents(): { paused: boolean; alive: boolean }
  /** what is on the screen: read first, and again as long as it is not over */
  wish(ids: readonly string[]): void
  /** something was done to this job */
  touch(id: string): void
  start(): void
  /** for good */
  stop(): void
}

/** Reads of status files per second, and at once. */
const perSecond = 2000
const burst = 300
const batch = 32
/** Of so many jobs, the newest, plus those that have not ended. */
const mostKept = 20_000
const tickMs = 1000
/** The folders are listed again after this, in ms, and never spend more than a twentieth of the time on it. */
const listEveryMs = 5000
const listShare = 20

const unfinished = ['new', 'held', 'claimed', 'started', 'committed'] as const
const ulid = /^[0-9A-HJKMNP-TV-Z]{26}$/
const final: ReadonlySet<JobStateName> = new Set(['succeeded', 'failed', 'cancelled', 'rejected'])

export function jobsOf(place: Place, o: { changed(): void; failed(error: unknown): void }): Jobs {
  const statuses = new Map<string, JobStatus | undefined>()
  /** where those lie that are not over; empty for who may not read jobs/ */
  let folders = new Map<string, FoundJob>()
  let order: readonly string[] = []
  let orderIsOld = false
  let read = 0
  let more = false
  let agents = { paused: false, alive: true }
  let version = 0
  let wished: readonly string[] = []
  const urgent = new Set<string>()
  const backlog = new Set<string>()
  const limit = budget(perSecond, burst)
  let pumping = false
  let stopped = true
  let listed = { at: Number.NEGATIVE_INFINITY, cost: 0 }
  let position: EventsPosition | undefined
  let tick: NodeJS.Timeout | undefined
  let watches: Watches | undefined

  const note = (): void => {
    version += 1
    o.changed()
  }

  function add(id: string): void {
    if (statuses.has(id)) return
    statuses.set(id, undefined)
    orderIsOld = true
    backlog.add(id)
  }
  function remove(id: string): void {
    if (statuses.get(id) !== undefined) read -= 1
    statuses.delete(id)
    urgent.delete(id)
    backlog.delete(id)
    orderIsOld = true
  }
  function put(id: string, status: JobStatus): void {
    const before = statuses.get(id)
    if (before === undefined) read += 1
    statuses.set(id, status)
    if (before === undefined || JSON.stringify(before) !== JSON.stringify(status)) note()
  }

  async function list(): Promise<void> {
    const start = performance.now()
    const found = await foldersNow()
    const ids = await newestIds()
    const kept = new Set(ids.slice(0, mostKept))
    for (const id of found.keys()) if (kept.size < 2 * mostKept) kept.add(id)
    more = ids.length > mostKept
    folders = found
    for (const id of statuses.keys()) if (!kept.has(id)) remove(id)
    // Newest first, so that they are read first.
    for (const id of [...kept].sort().reverse()) {
      add(id)
      if (statuses.get(id) === undefined) backlog.add(id) // there was none when it was looked at
    }
    await settle()
    listed = { at: performance.now(), cost: performance.now() - start }
    note()
  }

  /** Newest first, at least so many as are kept: from the index of finished jobs where there is one, else all that there are. */
  async function newestIds(): Promise<string[]> {
    const index = await indexedJobs(place, {})
    if (index !== undefined) {
      try {
        const ids: string[] = []
        while (ids.length <= mostKept) {
          const next = index.candidates.next()
          if (next.done) break
          ids.push(next.value.id)
        }
        await index.close()
        return ids
      } catch {
        await index.close().catch(() => {}) // it was changed meanwhile, or is damaged
      }
    }
    return (await jobIds(place)).reverse()
  }

  /** A status that says "running" while no folder has the job among those that run was left behind: its job is over, or gone. */
  async function settle(): Promise<void> {
    if (folders.size === 0 && !(await mayReadFolders())) return
    const doubtful = new Set<string>()
    for (const [id, s] of statuses) if (s !== undefined && !final.has(s.state) && !folders.has(id)) doubtful.add(id)
    for (const [id, job] of doubtful.size > 0 ? await locate(place.spool, doubtful) : []) {
      folders.set(id, job)
      urgent.add(id)
    }
  }

  async function mayReadFolders(): Promise<boolean> {
    try {
      await place.spool.fs.readdir(place.layout.new)
      return true
    } catch {
      return false
    }
  }

  async function foldersNow(): Promise<Map<string, FoundJob>> {
    try {
      return new Map((await listFolders(place.spool, { states: unfinished })).map((job) => [job.name.id, job]))
    } catch (error) {
      if (['EACCES', 'EPERM', 'ENOENT'].includes(String((error as NodeJS.ErrnoException).code))) return new Map()
      throw error
    }
  }

  const listAgain = oneAtATime(list, o.failed, () => pump())

  const watcher = watchAgents(place, place.config.lease.timeout)
  async function lookAtAgents(): Promise<void> {
    const before = agents
    try {
      // Of another host's agent it takes a while to tell: until then it counts as alive.
      const alive = (await watcher.look()).some((a) => a.state !== 'dead')
      agents = { paused: await isPaused(place.spool), alive }
    } catch (error) {
      if (!['EACCES', 'EPERM'].includes(String((error as NodeJS.ErrnoException).code))) throw error
    }
    if (before.paused !== agents.paused || before.alive !== agents.alive) o.changed()
  }
  const agentsAgain = oneAtATime(lookAtAgents, o.failed)

  async function tail(): Promise<void> {
    if (position === undefined) return
    for (let more = true; more && !stopped; ) {
      const news: Awaited<ReturnType<typeof readEvents>> = await readEvents(place.spool, position)
      position = news.position
      more = news.more
      if (news.missed) listed.at = Number.NEGATIVE_INFINITY
      for (const e of news.events) if (typeof e.job === 'string' && ulid.test(e.job)) happened(e.job)
    }
    pump()
  }
  const tailAgain = oneAtATime(tail, o.failed)
  const tailSoon = soon(50, tailAgain)

  function happened(id: string): void {
    // Where it lay it lies no more: until the next listing its status is the best word there is.
    folders.delete(id)
    add(id)
    backlog.add(id)
  }

  function next(n: number): string[] {
    const out: string[] = []
    for (const queue of [urgent, backlog]) {
      for (const id of queue) {
        if (out.length >= n) return out
        queue.delete(id)
        if (!out.includes(id)) out.push(id)
      }
    }
    return out
  }

  async function readOne(id: string): Promise<void> {
    try {
      const job = folders.get(id)
      const written = job === undefined ? await statusOf(place, id) : await foldersStatus(place.spool, job)
      const status = await settled(place, written)
      if (stopped || !statuses.has(id)) return
      if (status !== undefined) put(id, status)
    } catch (error) {
      o.failed(error)
    }
  }

  function pump(): void {
    if (pumping || stopped) return
    pumping = true
    void (async () => {
      while (!stopped && urgent.size + backlog.size > 0) {
        const ids = next(await limit.take(batch))
        await Promise.all(ids.map(readOne))
      }
      pumping = false
    })()
  }

  function onTick(): void {
    for (const id of wished) {
      const s = statuses.get(id)
      if (statuses.has(id) && (s === undefined || !final.has(s.state))) urgent.add(id)
    }
    tailSoon()
    agentsAgain()
    watches?.again()
    o.changed() // ages go on
    if (performance.now() - listed.at > Math.max(listEveryMs, listShare * listed.cost)) listAgain()
    pump()
  }

  return {
    ids() {
      if (orderIsOld) {
        order = [...statuses.keys()].sort().reverse()
        orderIsOld = false
      }
      return order
    },
    status: (id) => statuses.get(id),
    version: () => version,
    counts: () => ({ known: statuses.size, read, more }),
    agents: () => agents,
    wish(ids) {
      wished = ids
      for (const id of ids) if (statuses.has(id) && statuses.get(id) === undefined && backlog.has(id)) urgent.add(id)
      pump()
    },
    touch(id) {
      happened(id)
      urgent.add(id)
      pump()
    },
    start() {
      if (!stopped) return
      stopped = false
      // The end of the events is taken before the first listing, so that nothing falls in between.
      void endOfEvents(place.spool)
        .then((end) => {
          position = end
        }, o.failed)
        .finally(() => {
          if (!stopped) listAgain()
        })
      agentsAgain()
      tick = setInterval(onTick, tickMs)
      watches = watchFolders({
        [place.layout.control]: agentsAgain,
        [place.layout.daemon]: (name) => {
          if (name === '' || name === 'events.jsonl') tailSoon()
        },
        [place.layout.outputJobs]: (name) => {
          if (!ulid.test(name) || statuses.has(name)) return
          add(name)
          note()
          pump()
        },
      })
    },
    stop() {
      stopped = true
      limit.stop()
      clearInterval(tick)
      tailSoon.stop()
      watches?.stop()
    },
  }
}

/** Runs it, unless it runs already. */
function oneAtATime(run: () => Promise<void>, failed: (error: unknown) => void, then?: () => void): () => void {
  let running = false
  return () => {
    if (running) return
    running = true
    run()
      .catch(failed)
      .finally(() => {
        running = false
        then?.()
      })
  }
}
