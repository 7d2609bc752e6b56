/**
 * VMs for views: what the registry says, what the agent saw at its last look, and, where libvirt may be asked from here, what it says now.
 * Nothing is written, and no agent is needed.
 */
import { hostname } from 'node:os'
import { nearest } from '../text/nearest.ts'
import type { Orphan } from '../vm/drift.ts'
import { readRegistry } from '../vm/registry.ts'
import { readVmReports, type VmReport, type VmUsage } from '../vm/report.ts'
import type { VmRecord, VmState } from '../vm/types.ts'
import { ClientError } from './errors.ts'
import type { Place } from './place.ts'
import type { LiveDomain, LiveView } from './vms-live.ts'

export interface VmDrift {
  kind: string
  message: string
}

/** One VM as it is shown. Sizes are bytes, durations milliseconds. */
export interface VmView extends Partial<Omit<VmRecord, 'name' | 'uuid' | 'state' | 'addresses' | 'host' | 'uri'>> {
  name: string
  uuid: string
  /** foreign: a domain of libvirt that vmspool did not make and never touches */
  owner: 'vmspool' | 'foreign'
  host: string
  uri: string
  state: VmState
  addresses: string[]
  /** libvirt: just now, with `at` the moment; agent: at its last look; registry: when it was last written */
  seen: { by: 'libvirt' | 'agent' | 'registry'; at: string /** why libvirt was not asked */; why?: string }
  /** since it was seen running */
  uptime_ms?: number
  /** of one processor: two that are busy are 200 */
  cpu_percent?: number
  memory_percent?: number
  drift: VmDrift[]
}

export interface VmViews {
  /** by name */
  vms: VmView[]
  /** what no registry names, seen by agents at their last looks */
  orphans: (Orphan & { host: string; instance: string })[]
  reports: VmReport[]
  /** why libvirt could not be asked, if it could not: a sentence */
  unasked?: string
}

export interface VmQuery {
  /** false: libvirt is not asked; `usage` measures the processors for half a second */
  live?: boolean | 'usage'
  /** foreign domains, too; needs libvirt */
  all?: boolean
  signal?: AbortSignal
}

/** Where the VMs of an instance lie, with their registry. */
export function vmDirOf(place: Pick<Place, 'config' | 'layout'>): string {
  return place.config.vm.dir ?? place.layout.vms
}

/** @throws ClientError 77 when the registry may not be read */
export async function vmsOf(place: Place, q: VmQuery = {}): Promise<VmViews> {
  const dir = vmDirOf(place)
  const [records, reports] = await Promise.all([recordsIn(dir), readVmReports(dir)])
  const live = q.live === false ? [] : await ask(place, records, q)
  const vms = records.map((r) => viewOf(r, live, reports))
  if (q.all) vms.push(...foreign(live, records))
  const unasked = live.find((l) => l.failed !== undefined)?.failed
  return {
    vms: vms.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0)),
    orphans: reports.flatMap(({ orphans, host, instance }) => orphans.map((o) => ({ ...o, host, instance }))),
    reports,
    ...(unasked === undefined ? {} : { unasked }),
  }
}

async function recordsIn(dir: string): Promise<VmRecord[]> {
  try {
    return await readRegistry(dir)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code !== 'EACCES' && code !== 'EPERM') throw error
    throw new ClientError(
      77,
      `The registry of VMs in ${dir} may not be read by this user (${code}). Ask for membership of the group that owns it.`,
      { cause: error },
    )
  }
}

/** libvirts that can be asked from here: those of VMs of this host, those that are reached by ssh, and the configured one. */
async function ask(place: Place, records: readonly VmRecord[], q: VmQuery): Promise<LiveView[]> {
  const uris = new Set(records.filter((r) => r.host === hostname() || isRemote(r.uri)).map((r) => r.uri))
  if (q.all) uris.add(place.config.libvirt.uri)
  if (uris.size === 0) return []
  const { lookLive } = await import('./vms-live.ts')
  // whose start nobody waited for: the registry has no address of it
  const asking = records
    .filter((r) => r.state === 'running' && r.addresses.length === 0 && r.nics.length > 0)
    .map((r) => ({ uri: r.uri, uuid: r.uuid, macs: r.nics.map((n) => n.mac), since: Date.parse(r.state_at) }))
  return Promise.all(
    [...uris].map((uri) =>
      lookLive(
        uri,
        q,
        asking.filter((a) => a.uri === uri),
      ),
    ),
  )
}

const isRemote = (uri: string): boolean => /^\w+\+ssh:/.test(uri)

function viewOf(r: VmRecord, live: readonly LiveView[], reports: readonly VmReport[]): VmView {
  const report = reports.find((x) => x.host === r.host)
  const of = r.host === hostname() || isRemote(r.uri) ? live.find((l) => l.uri === r.uri) : undefined
  const domain = of?.failed === undefined ? of?.domains.get(r.uuid) : undefined
  const drift = (report?.drift ?? []).filter((d) => d.name === r.name).map(({ kind, message }) => ({ kind, message }))
  const base: VmView = { ...r, owner: 'vmspool', drift, seen: seenOf(r, report) }
  if (of === undefined) return { ...base, ...usageOf(base, report?.usage[r.name]) }
  if (of.failed !== undefined) {
    const seen = { ...base.seen, why: of.failed }
    return { ...base, seen, ...usageOf(base, report?.usage[r.name]) }
  }
  const seen = { by: 'libvirt' as const, at: of.at }
  const state: VmState = domain?.state ?? 'missing'
  const same = state === r.state
  const now: VmView = {
    ...base,
    seen,
    state,
    ...(same ? {} : { state_at: of.at, state_reason: domain?.reason ?? 'undefined' }),
    // an address is that of a boot
    addresses: state === 'running' || state === 'paused' ? known(r, of) : [],
  }
  return { ...now, ...(same ? uptime(now) : {}), ...usageOf(now, merged(report?.usage[r.name], domain), domain) }
}

const known = (r: VmRecord, of: LiveView): string[] =>
  r.addresses.length > 0 ? r.addresses : (of.addresses.get(r.uuid) ?? [])

function seenOf(r: VmRecord, report: VmReport | undefined): VmView['seen'] {
  const looked = report?.seen_at
  return looked !== undefined && looked > r.updated_at
    ? { by: 'agent', at: looked }
    : { by: 'registry', at: r.updated_at }
}

function uptime(v: VmView): { uptime_ms?: number } {
  if (v.state !== 'running' || v.state_at === undefined) return {}
  return { uptime_ms: Math.max(0, Date.now() - Date.parse(v.state_at)) }
}

function merged(usage: VmUsage | undefined, d: LiveDomain | undefined): Partial<VmUsage> | undefined {
  if (d === undefined) return usage
  const live = Object.entries({
    cpu_percent: d.cpu_percent,
    memory_used_bytes: d.memory_used_bytes,
    rss_bytes: d.rss_bytes,
  }).filter(([, v]) => v !== undefined)
  return { ...usage, ...Object.fromEntries(live) }
}

function usageOf(v: VmView, u: Partial<VmUsage> | undefined, d?: LiveDomain): Partial<VmView> {
  if (v.state !== 'running') return {}
  const memory = d?.memory_bytes ?? v.memory_bytes
  const used = u?.memory_used_bytes ?? u?.rss_bytes
  return {
    ...uptime(v),
    ...(u?.cpu_percent === undefined ? {} : { cpu_percent: u.cpu_percent }),
    ...(used === undefined || !memory ? {} : { memory_percent: Math.round((1000 * used) / memory) / 10 }),
  }
}

function foreign(live: readonly LiveView[], records: readonly VmRecord[]): VmView[] {
  const ours = new Set(records.map((r) => r.uuid))
  return live.flatMap((l) =>
    [...l.domains.values()]
      .filter((d) => !ours.has(d.uuid))
      .map(
        (d): VmView => ({
          name: d.name,
          uuid: d.uuid,
          owner: 'foreign',
          host: isRemote(l.uri) ? new URL(l.uri).hostname : hostname(),
          uri: l.uri,
          state: d.state,
          state_reason: d.reason,
          addresses: [],
          ...(d.vcpus === undefined ? {} : { vcpus: d.vcpus }),
          ...(d.memory_bytes === undefined ? {} : { memory_bytes: d.memory_bytes }),
          seen: { by: 'libvirt', at: l.at },
          drift: [],
        }),
      ),
  )
}

/**
 * The VM that somebody means: by its name, its uuid, or NAME@HOST where several hosts have one of that name.
 * @throws ClientError 2 when there is none, with the nearest name, or more than one
 */
export function findVm(place: Place, vms: readonly VmView[], which: string): VmView {
  const own = vms.filter((v) => v.owner === 'vmspool')
  const [name, host] = which.split('@')
  const found = own.filter((v) => v.name === which || v.uuid === which.toLowerCase())
  if (found.length === 0 && host !== undefined) found.push(...own.filter((v) => v.name === name && v.host === host))
  if (found.length === 1) return found[0]!
  if (found.length > 1) {
    const them = found.map((v) => `${v.name}@${v.host}`).join(', ')
    throw new ClientError(2, `"${which}" is the name of VMs on ${found.length} hosts. Say which one: ${them}.`)
  }
  const other = vms.find((v) => v.owner === 'foreign' && (v.name === which || v.uuid === which.toLowerCase()))
  if (other !== undefined) {
    throw new ClientError(
      2,
      `The domain "${which}" of ${other.uri} was not made by the instance "${place.instance}", which never touches it. Use virsh.`,
    )
  }
  const near = nearest(
    which,
    own.map((v) => v.name),
  )
  throw new ClientError(
    2,
    `There is no VM "${which}" in the instance "${place.instance}" (${vmDirOf(place)})${near === undefined ? '' : `; did you mean "${near}"?`} See \`vmspool vm list\` for the VMs there are.`.replace(
      /\) See/,
      '). See',
    ),
  )
}
