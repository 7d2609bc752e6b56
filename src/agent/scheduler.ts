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
import { createLibvirtGate, LIBVIRT, type LibvirtGate } from './libvirt-gate.ts'
import type { RunnerDeps } from './conclude.ts'
import { runClaim } from './runner.ts'
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
  /** what a job waits for that was set aside: a place in its group, a host, or libvirt; undefined when it has it */
  asideWait(aside: string | undefined, leases: readonly Lease[]): string | undefined
  /** what a job that was just accepted waits for */
  firstWait(record: JobRecord): string | undefined
  /** was a job set aside because it asks for other hosts? */
  foreign(aside: string | undefined): boolean
  readonly libvirt: LibvirtGate
  idle(): Promise<void>
}

interface Wants {
  weight: number
  kind: string
  group?: string
  hosts?: readonly string[]
}

/** The places of a running job. */
interface Places {
  weight: number
  /** frees them before the job ends */
  lend(): void
  done: Promise<void>
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
  const places = new Map<string, Places>()
  /** running jobs that wait for something that is away: others have their places */
  const lent = new Set<string>()
  const gate = createLibvirtGate(a, () => lent.size)
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
    return {
      weight,
      kind: record.rejected ? '' : record.kind,
      ...(group === undefined ? {} : { group }),
      ...(wanted === undefined ? {} : { hosts: wanted }),
    }
  }
  async function wantsOf(name: JobName): Promise<Wants | undefined> {
    const known = weights.get(name.id)
    if (known !== undefined) return known
    try {
      return weigh(await readRecord(a.spool, join(a.spool.layout.new, name.file)))
    } catch (e) {
      if (errno(e) === 'ENOENT') return undefined // another agent has it
      return { weight: 1, kind: '' }
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
    places.delete(id)
    lent.delete(id)
    groups.leave(id)
  }
  function start(id: string, weight: number, task: () => Promise<void>): void {
    const done = task()
    hold(id, weight, done)
    void done.finally(scheduler.dispatch)
  }
  function hold(id: string, weight: number, done: Promise<void>): void {
    const { promise, resolve } = Promise.withResolvers<void>()
    const free = Promise.race([done, promise])
    places.set(id, { weight, done, lend: resolve })
    for (let i = 0; i < weight; i++) void queue.add(() => free)
  }
  /** A job that only waits gives its places to others; when it goes on it does so at once, and has them again as they become free. */
  function waits(id: string, waiting: boolean): void {
    const p = places.get(id)
    if (!p || waiting === lent.has(id)) return
    if (waiting) {
      lent.add(id)
      p.lend()
      // the queue notices a moment later that they are free
      setImmediate(scheduler.dispatch)
    } else {
      lent.delete(id)
      hold(id, p.weight, p.done)
    }
  }
  const used = (): number => queue.pending + queue.size
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
      await runClaim(a, { ...deps, waits }, r.claim, weight)
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
      const working = a.inFlight.size - weightless.size - lent.size
      if (used() >= queue.concurrency || (jobs > 0 && working >= jobs)) return
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
      if (gate.closedFor(wanted.kind) !== undefined) {
        plan.park(name, LIBVIRT)
        continue
      }
      if (group !== undefined && groups.full(group)) {
        plan.park(name, group)
        continue
      }
      const weight = Math.min(wanted.weight, queue.concurrency)
      if (used() + weight > queue.concurrency || heldBecause(a) !== undefined) {
        // Back into the plan: something more urgent may come before there is room.
        next = name
        plan.block(name)
        plan.release(name.key)
        return
      }
      begin(name.id, weight, group)
      start(name.id, weight, () => tryRun(name, weight))
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
      start(c.name.id, weight, () => runClaim(a, { ...deps, waits }, c, weight).finally(() => end(c.name.id)))
    },
    used,
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
      const { group, kind, hosts: wanted } = weigh(record)
      return wanted !== undefined && !hosts.serves(wanted)
        ? hosts.wait(hosts.parking(wanted), undefined)
        : (gate.closedFor(kind) ?? groups.wait(group))
    },
    asideWait: (aside, leases) =>
      aside === LIBVIRT ? gate.closedFor('vm') : (hosts.wait(aside, leases) ?? groups.wait(aside)),
    libvirt: gate,
    idle: () => queue.onIdle(),
  }
  return scheduler
}
