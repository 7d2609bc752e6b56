/** What libvirt says of its domains just now, with the caller's own rights: one call, or two for a measurement. */
import { setTimeout as sleep } from 'node:timers/promises'
import { type Connection, connect, type DomainStats, isLibvirtError } from '../libvirt/index.ts'
import { vmStateOf } from '../vm/state.ts'
import type { VmState } from '../vm/types.ts'
import { type Asking, leasedAddresses } from '../vm/leased.ts'

export interface LiveDomain {
  name: string
  uuid: string
  state: VmState
  reason: string
  vcpus?: number
  memory_bytes?: number
  /** as its guest says, where its balloon driver runs */
  memory_used_bytes?: number
  rss_bytes?: number
  cpu_time_ms?: number
  /** of one processor */
  cpu_percent?: number
}

export interface LiveView {
  uri: string
  at: string
  /** by uuid */
  domains: Map<string, LiveDomain>
  /** of those that were asked about, by uuid */
  addresses: Map<string, string[]>
  /** why it could not be asked: a sentence */
  failed?: string
}

/** A view must not wait for a daemon that hangs. */
const OPEN_MS = 3000
const CALL_MS = 5000
const MEASURE_MS = 500

export async function lookLive(
  uri: string,
  q: { live?: boolean | 'usage'; signal?: AbortSignal },
  asking: readonly Asking[],
): Promise<LiveView> {
  const failed = (error: unknown): LiveView => ({
    uri,
    at: new Date().toISOString(),
    domains: new Map(),
    addresses: new Map(),
    failed: `libvirt (${uri}) could not be asked: ${(error as Error).message}`,
  })
  try {
    await using c = await connectForView(uri, q.signal)
    const [first, addresses] = await Promise.all([stats(c), leasedAddresses(c, asking).catch(noneIfRefused)])
    if (q.live !== 'usage') return { uri, at: new Date().toISOString(), domains: first, addresses }
    const began = performance.now()
    await sleep(MEASURE_MS, undefined, q.signal ? { signal: q.signal } : {})
    const second = await stats(c)
    const passed = performance.now() - began
    for (const d of second.values()) {
      const before = first.get(d.uuid)?.cpu_time_ms
      if (before !== undefined && d.cpu_time_ms !== undefined && d.cpu_time_ms >= before)
        d.cpu_percent = Math.round((1000 * (d.cpu_time_ms - before)) / passed) / 10
    }
    return { uri, at: new Date().toISOString(), domains: second, addresses }
  } catch (error) {
    if (q.signal?.aborted) throw q.signal.reason
    return failed(error)
  }
}

/** Drivers without networks. */
function noneIfRefused(error: unknown): Map<string, string[]> {
  if (isLibvirtError(error)) return new Map()
  throw error
}

/** Reading alone needs fewer rights, where the daemon has a socket for it. */
async function connectForView(uri: string, signal?: AbortSignal): Promise<Connection> {
  const o = { readonly: true, open_ms: OPEN_MS, quick_ms: CALL_MS, ...(signal ? { signal } : {}) }
  return connect(uri, o)
}

async function stats(c: Connection): Promise<Map<string, LiveDomain>> {
  const [states, numbers] = await Promise.all([
    c.domains.states(),
    c.domains.stats({ groups: ['cpu_total', 'balloon', 'vcpu'], flags: ['nowait'] }),
  ])
  const byUuid = new Map(numbers.map((n) => [n.domain.uuid, n]))
  const found = await Promise.all(
    states.map(async ({ domain, ...state }): Promise<LiveDomain> => {
      const d = {
        name: domain.name,
        uuid: domain.uuid,
        state: vmStateOf(state),
        reason: state.reason,
        ...measured(byUuid.get(domain.uuid)),
      }
      if (d.memory_bytes !== undefined && d.vcpus !== undefined) return d
      // drivers without numbers; and a domain may be gone by now
      const info = await c.domains.info(domain).catch(() => undefined)
      return info === undefined ? d : { ...d, vcpus: info.vcpus, memory_bytes: info.max_memory_bytes }
    }),
  )
  return new Map(found.map((d) => [d.uuid, d]))
}

function measured(s: DomainStats | undefined): Partial<LiveDomain> {
  const number = (key: string): number | undefined => {
    const v = s?.values[key]
    return v === undefined ? undefined : Number(v)
  }
  const kib = (key: string): number | undefined => {
    const v = number(key)
    return v === undefined ? undefined : v * 1024
  }
  const [usable, available] = [kib('balloon.usable'), kib('balloon.available')]
  const cpu = number('cpu.time')
  const all = {
    vcpus: number('vcpu.current'),
    memory_bytes: kib('balloon.maximum'),
    memory_used_bytes: usable === undefined || available === undefined ? undefined : available - usable,
    rss_bytes: kib('balloon.rss'),
    cpu_time_ms: cpu === undefined ? undefined : cpu / 1e6,
  }
  return Object.fromEntries(Object.entries(all).filter(([, v]) => v !== undefined))
}
