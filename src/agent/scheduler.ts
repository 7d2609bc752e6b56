/**
 * What runs next. A sliding window of weights: as soon as the next job in order fits, it is claimed; a heavy one that does
 * not fit yet is waited for, so that light ones cannot starve it. Whether a claim succeeds only the spool decides.
 */
import PQueue from 'p-queue'
import { handlers } from '../jobs/registry.ts'
import { claim, errno, type JobName, type JobRecord, type Lease, readRecord } from '../spool/index.ts'
import { join } from 'node:path'
import { createGroups } from './groups.ts'
import { createHosts } from './hosts.ts'
import { type RunnerDeps, runClaim } from './runner.ts'
import { type Agent, heldBecause } from './state.ts'

export interface Scheduler {
  /** looks for work; cheap, and does nothing when nothing fits */
  dispatch(): void
  /** of a job that was just accepted, so that its record need not be read for its weight */
  remember(name: JobName, record: JobRecord): void
  /** runs a claim that a heartbeat found: we own it, but never heard so */
  adopt(c: Parameters<typeof runClaim>[2]): void
  used(): number
  /** the job that is next and does not fit yet */
  waiting(): JobName | undefined
  /** jobs of one lane are waiting behind this id */
  behind(key: string): string | undefined
  /** the lanes may have moved */
  laneMoved(key?: string): void
  /** the configuration was read again */
  reconfigure(): void
  /** what a job waits for that was set aside: a place in its group, or a host; undefined when it has it */
  asideWait(aside: string | undefined, leases: readonly Lease[]): string | undefined
  /** what a job that was just accepted waits for */
  firstWait(record: JobRecord): string | undefined
  /** was a job set aside because it asks for other hosts? */
  foreign(aside: string | undefined): boolean
  idle(): Promise<void>
}

interface Wants {
  weight: number
  group?: string
  hosts?: readonly string[]
}

/** Weights of accepted jobs; a job that fell out is read again. */
const MAX_REMEMBERED = 100_000

export function createScheduler(a: Agent, deps: RunnerDeps): Scheduler {
  // Each unit of weight is a slot of the queue; a job of weight 3 brings two companions that only wait for it.
  const queue = new PQueue({ concurrency: a.config.concurrency.weight })
  const weights = new Map<string, Wants>()
  const busy = new Map<string, string>()
  /** batches: they wait for other jobs, and count as none */
  const weightless = new Set<string>()
  const groups = createGroups(a)
  const hosts = createHosts(a)
  let next: JobName | undefined
  let going = false
  let again = false

  function weigh(record: JobRecord): Wants {
    const h = handlers.get(record.kind)
    const w = record.rejected || !h ? 1 : h.weight(record.manifest)
    const weight = Number.isFinite(w) && w >= 0 ? Math.floor(w) : 1
    // A batch holds no place in its group either, or its own jobs could wait for it for ever.
    const group = record.rejected || weight === 0 ? undefined : record.manifest.group
    const wanted = record.rejected ? undefined : (record.manifest.hosts as readonly string[] | undefined)
    return { weight, ...(group === undefined ? {} : { group }), ...(wanted === undefined ? {} : { hosts: wanted }) }
  }
  async function wantsOf(name: JobName): Promise<Wants | undefined> {
    const known = weights.get(name.id)
    if (known !== undefined) return known
    try {
      return weigh(await readRecord(a.spool, join(a.spool.layout.new, name.file)))
    } catch (e) {
      if (errno(e) === 'ENOENT') return undefined // another agent has it
      return { weight: 1 }
    }
  }
  // MUST come before a claim is tried: two attempts of one process at a batch could each make its children.
  function begin(id: string, weight: number, group: string | undefined): void {
    a.inFlight.add(id)
    if (weight === 0) weightless.add(id)
    groups.enter(id, group)
  }
  function end(id: string): void {
    a.inFlight.delete(id)
    weightless.delete(id)
    groups.leave(id)
  }
  function start(weight: number, task: () => Promise<void>): void {
    const done = task()
    for (let i = 0; i < weight; i++) void queue.add(() => done)
    void done.finally(scheduler.dispatch)
  }
  async function tryRun(name: JobName, weight: number): Promise<void> {
    try {
      const r = await claim(a.spool, name)
      if (r.state === 'lane-busy') {
        busy.set(name.key, r.behind)
        a.plan?.block(name)
        return
      }
      if (r.state === 'gone') return
      weights.delete(name.id)
      a.lastMove = performance.now()
      await runClaim(a, deps, r.claim, weight)
    } catch (e) {
      // A claim whose rename happened all the same is found by the next heartbeat.
      a.log.error('claim.failed', { job: name.id, error: e })
      a.metrics.inc('vmspool_loop_errors_total', { loop: 'claim' })
    } finally {
      end(name.id)
    }
  }

  async function look(): Promise<void> {
    const plan = a.plan
    if (!plan) return
    while (heldBecause(a) === undefined) {
      const jobs = a.config.concurrency.jobs
      if (queue.pending >= queue.concurrency || (jobs > 0 && a.inFlight.size - weightless.size >= jobs)) return
      const name = plan.next()
      next = undefined
      if (!name) return
      if (a.inFlight.has(name.id)) continue
      const behind = busy.get(name.key)
      if (behind !== undefined && behind !== name.id) {
        plan.block(name)
        continue
      }
      const wanted = await wantsOf(name)
      if (wanted === undefined) continue
      const { group } = wanted
      if (wanted.hosts !== undefined && !hosts.serves(wanted.hosts)) {
        plan.park(name, hosts.parking(wanted.hosts))
        continue
      }
      if (group !== undefined && groups.full(group)) {
        plan.park(name, group)
        continue
      }
      const weight = Math.min(wanted.weight, queue.concurrency)
      if (queue.pending + weight > queue.concurrency || heldBecause(a) !== undefined) {
        // Back into the plan: something more urgent may come before there is room.
        next = name
        plan.block(name)
        plan.release(name.key)
        return
      }
      begin(name.id, weight, group)
      start(weight, () => tryRun(name, weight))
    }
  }

  const scheduler: Scheduler = {
    dispatch() {
      if (going) {
        again = true
        return
      }
      going = true
      void look()
        .catch((e) => a.log.error('dispatch.failed', { error: e }))
        .finally(() => {
          going = false
          if (again) {
            again = false
            scheduler.dispatch()
          }
        })
    },
    remember(name, record) {
      if (weights.size < MAX_REMEMBERED) weights.set(name.id, weigh(record))
    },
    adopt(c) {
      if (a.inFlight.has(c.name.id)) return
      const wants = weigh(c.record)
      const weight = Math.min(wants.weight, queue.concurrency)
      begin(c.name.id, weight, wants.group)
      start(weight, () => runClaim(a, deps, c, weight).finally(() => end(c.name.id)))
    },
    used: () => queue.pending,
    waiting: () => next,
    behind: (key) => busy.get(key),
    laneMoved(key) {
      if (key === undefined) busy.clear()
      else {
        busy.delete(key)
        a.plan?.release(key)
      }
    },
    reconfigure() {
      queue.concurrency = a.config.concurrency.weight
      groups.reconfigure()
      hosts.reconfigure()
      scheduler.dispatch()
    },
    foreign: (aside) => aside !== undefined && hosts.isParking(aside),
    firstWait(record) {
      const { group, hosts: wanted } = weigh(record)
      return wanted !== undefined && !hosts.serves(wanted)
        ? hosts.wait(hosts.parking(wanted), undefined)
        : groups.wait(group)
    },
    asideWait: (aside, leases) => hosts.wait(aside, leases) ?? groups.wait(aside),
    idle: () => queue.onIdle(),
  }
  return scheduler
}
