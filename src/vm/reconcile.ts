/**
 * Registry, libvirt and files are compared; what the registry says of the state is brought up to date, and what differs is told. It changes
 * no domain and no disk: starting a VM that should run is a job, which the caller submits.
 */
import { isDeepStrictEqual } from 'node:util'
import { uuidOfVm } from '../domain/index.ts'
import type { Session } from '../libvirt/index.ts'
import type { Drift, Orphan } from './drift.ts'
import { lookAtDomain, lookAtDomains, missingFiles, type SeenDomain } from './look.ts'
import { applied, filesOf, type Judgement, judge, withStart } from './observe.ts'
import { findOrphans } from './orphans.ts'
import type { Registry } from './registry.ts'
import { adoptGhost, recoverRegistry } from './registry-recover.ts'
import type { VmRecord } from './types.ts'

export interface ReconcileOptions {
  registry: Registry
  session: Session
  /** `vm.dir`, absolute: as domains carry it */
  dir: string
  /** libvirt's connection */
  uri: string
  /** of this host's boot */
  boot_id: string
  /** whether the host is going down; default: it is not */
  hostStops?: () => Promise<boolean>
  jobs: {
    /** whether a job that works on this VM waits or runs */
    busy(name: string): Promise<boolean>
    /** whether a job is over, or there is none */
    over(id: string, name: string): Promise<boolean>
  }
  /** what earlier passes saw, see orphanMemory() */
  remember: (found: readonly Omit<Orphan, 'since' | 'passes'>[], at: string) => Orphan[]
  signal: AbortSignal
  log: (level: 'info' | 'warn', event: string, fields: Record<string, unknown>) => void
}

export interface Reconciled {
  at: string
  drift: Drift[]
  /** those that should run and that nothing else will start: noted as started once more, so MUST be submitted */
  toStart: VmRecord[]
  orphans: Orphan[]
  /** found again after the registry was lost */
  recovered: string[]
  /** when one of them may be started again, ms since 1970 */
  due?: number
}

interface Common {
  at: string
  boot_id: string
  /** asked once for a pass, and only when it matters */
  hostStops(): Promise<boolean>
}

/** Everything: on start, after each (re)connect, and now and then. */
export async function reconcile(o: ReconcileOptions): Promise<Reconciled> {
  const { registry, session, signal } = o
  const all = await lookAtDomains(session, signal)
  const ours = all.filter((d) => isMine(d, o))
  const recovered = await recoverRegistry(registry, session, ours as Parameters<typeof recoverRegistry>[2], {
    uri: o.uri,
    signal,
  })
  for (const name of recovered) o.log('warn', 'vm.recovered', { name })

  const byUuid = new Map(all.map((d) => [d.domain.uuid, d]))
  const byName = new Map(all.map((d) => [d.domain.name, d]))
  const common = commonSight(o)
  const judged: [VmRecord, Judgement][] = []
  const records = await registry.all()
  for (const r of records) {
    signal.throwIfAborted()
    judged.push([r, await judgeOne(o, common, r, byUuid.get(r.uuid), byName.get(r.name))])
  }
  const toStart = await write(o, judged, common.at)

  const known = new Set((await registry.all()).map((r) => r.name))
  for (const r of records) if (!known.has(r.name) && (await o.jobs.busy(r.name))) known.add(r.name)
  const found = await findOrphans(registry, o.dir, ours, known)
  const orphans = o.remember(await withoutBusy(found, o.jobs.busy), common.at)
  return {
    at: common.at,
    drift: driftOf(judged, orphans),
    toStart,
    orphans,
    recovered,
    ...dueOf(judged),
  }
}

/** One VM, after an event of its domain. @returns undefined when the registry has none with this uuid */
export async function reconcileOne(
  o: ReconcileOptions,
  uuid: string,
): Promise<(Pick<Reconciled, 'drift' | 'toStart' | 'due'> & { name: string }) | undefined> {
  const r = (await o.registry.all()).find((x) => x.uuid === uuid)
  if (!r) return undefined
  const domain = await lookAtDomain(o.session, uuid, o.signal)
  let named = domain
  if (!domain) {
    const other = await o.session.query.domains.byName(r.name, { signal: o.signal })
    named = other && (await lookAtDomain(o.session, other.uuid, o.signal))
  }
  const common = commonSight(o)
  const judged: [VmRecord, Judgement][] = [[r, await judgeOne(o, common, r, domain, named)]]
  const toStart = await write(o, judged, common.at)
  return { name: r.name, drift: driftOf(judged, []), toStart, ...dueOf(judged) }
}

function commonSight(o: ReconcileOptions): Common {
  let stops: Promise<boolean> | undefined
  const hostStops = (): Promise<boolean> => (stops ??= o.hostStops?.() ?? Promise.resolve(false))
  return { at: new Date().toISOString(), boot_id: o.boot_id, hostStops }
}

/** Ours carry our instance and folder. A domain with our uuid alone may be of another spool whose instance has the same name. */
function isMine(d: SeenDomain, o: ReconcileOptions): boolean {
  return d.owner?.instance === o.registry.instance && d.owner.dir === o.dir
}

async function judgeOne(
  o: ReconcileOptions,
  common: Common,
  record: VmRecord,
  byUuid: SeenDomain | undefined,
  byName: SeenDomain | undefined,
): Promise<Judgement> {
  let r = record
  let domain = byUuid
  const ghost = r.origin === 'ghost'
  if (ghost && !domain && byName && r.uuid === uuidOfVm(o.registry.instance, r.name)) {
    const adopted = await adoptGhost(r, byName, o.session, o.signal)
    if (adopted) {
      r = adopted
      domain = byName
    }
  }
  const mine = domain && (isMine(domain, o) || ghost) ? domain : undefined
  const foreign = mine ? undefined : (domain ?? byName)
  const off = mine !== undefined && mine.state.state === 'shutoff' && r.desired === 'running'
  return judge(r, {
    at: common.at,
    boot_id: common.boot_id,
    host_stops: off && (await common.hostStops()),
    domain: mine && { name: mine.domain.name, state: mine.state },
    ...(foreign ? { foreign: { uuid: foreign.domain.uuid } } : {}),
    missing_files: await missingFiles(filesOf(r)),
    job_over: r.doing ? await o.jobs.over(r.doing.job, r.name) : false,
    busy: mine?.state.state !== 'running' && (await o.jobs.busy(r.name)),
  })
}

/** Writes what was judged in one change, but for VMs that something was begun with meanwhile. @returns those to be started */
async function write(o: ReconcileOptions, judged: readonly [VmRecord, Judgement][], at: string): Promise<VmRecord[]> {
  const wanted = judged.filter(([r, j]) => j.start || !isDeepStrictEqual(r, j.record))
  if (wanted.length === 0) return []
  let toStart: VmRecord[] = []
  let noted: [string, string][] = []
  await o.registry.change((vms) => {
    toStart = []
    noted = []
    for (const [before, j] of wanted) {
      const now = vms.get(before.name)
      const after = j.record && j.start ? withStart(j.record, at) : j.record
      const next = now && applied(now, before, after ?? before)
      if (!next) continue
      if (after) vms.set(before.name, next)
      else vms.delete(before.name)
      if (j.start) toStart.push(next)
      for (const note of j.notes) noted.push([before.name, note])
    }
  })
  for (const [name, message] of noted) o.log('info', 'vm.reconciled', { name, message })
  return toStart
}

function dueOf(judged: readonly [VmRecord, Judgement][]): { due?: number } {
  const due = Math.min(...judged.map(([, j]) => j.due ?? Number.POSITIVE_INFINITY))
  return due < Number.POSITIVE_INFINITY ? { due } : {}
}

async function withoutBusy<T extends { name: string }>(
  found: readonly T[],
  busy: (name: string) => Promise<boolean>,
): Promise<T[]> {
  const out: T[] = []
  for (const f of found) if (!(await busy(f.name))) out.push(f)
  return out
}

function driftOf(judged: readonly [VmRecord, Judgement][], orphans: readonly Orphan[]): Drift[] {
  const drift = judged.flatMap(([, j]) => j.drift)
  for (const o of orphans) {
    drift.push(
      o.kind === 'domain'
        ? {
            name: o.name,
            kind: 'orphan-domain',
            message: `libvirt has the domain "${o.name}" (${o.uuid}), which this instance made and its registry does not name${o.running ? '; it runs' : ''}. "vmspool vm gc" removes it.`,
          }
        : {
            name: o.name,
            kind: 'orphan-folder',
            message: `The folder ${o.path} belongs to no VM. "vmspool vm gc" moves it aside.`,
          },
    )
  }
  return drift
}
