/** No silence: the jobs that wait say what for, and say it anew when that changes. */
import { join } from 'node:path'
import { listJobs, readOwners, statusOf, writeStatus } from '../spool/index.ts'
import type { Scheduler } from './scheduler.ts'
import { type Agent, heldUntil } from './state.ts'

/** So many of those next in turn are kept current; the others say what was true when they came. */
const CURRENT = 50
/** Above this the listing costs more than the word is worth at every round. */
const MANY = 10_000

export function waitingRound(a: Agent, scheduler: Scheduler): () => Promise<void> {
  const said = new Map<string, string>()
  return async () => {
    if (a.fenced || (a.plan?.size ?? 0) > MANY) return
    const jobs = await listJobs(a.spool, { states: ['new'], limit: CURRENT })
    // Those that wait for their group or a host may lie far behind.
    const aside = a.plan?.firstParked(CURRENT) ?? []
    for (const { name } of aside) {
      if (!jobs.some((j) => j.name.id === name.id))
        jobs.push({ name, state: 'new', path: join(a.spool.layout.new, name.file) })
    }
    const leases = aside.length > 0 ? await readOwners(a.spool) : []
    const working = [...a.running.values()].filter((job) => job.weight > 0).length
    const now = new Set(jobs.map((j) => j.name.id))
    for (const id of said.keys()) if (!now.has(id)) said.delete(id)
    for (const [i, job] of jobs.entries()) {
      if (a.inFlight.has(job.name.id)) continue
      const behind = scheduler.behind(job.name.key)
      const place = a.plan?.parkedAs(job.name)
      const foreign = scheduler.foreign(place)
      const wait = scheduler.asideWait(place, leases)
      if (foreign && wait === undefined) continue // its status is the business of the agents that may run it
      const why =
        (foreign ? wait : heldUntil(a)) ??
        wait ??
        (behind !== undefined && behind !== job.name.id
          ? `job ${behind} of the same name, which was accepted before it`
          : working > 0
            ? `a free slot: ${working} jobs run here (concurrency.weight ${a.config.concurrency.weight}), ${i} wait before it`
            : 'its turn')
      if (said.get(job.name.id) === why) continue
      const status = await statusOf(a.spool, job)
      if (status.state !== 'queued' || a.inFlight.has(job.name.id)) continue
      said.set(job.name.id, why)
      if (status.waiting_on !== why) await writeStatus(a.spool, { ...status, waiting_on: why })
    }
  }
}
