/**
 * The addresses of VMs that run, as DHCP has them now: for those whose start nobody waited for, or that were slow. A lease of an earlier boot is
 * never taken for one of this: it must have been given, or renewed, after the VM was seen running.
 */
import { type Connection, type DhcpLease, isLibvirtError } from '../libvirt/index.ts'
import type { Registry } from './registry.ts'

export interface Asking {
  uuid: string
  macs: readonly string[]
  /** since when it runs, ms since 1970 */
  since: number
}

/** Clocks of daemon and registry are one host's, but a lease ends on a full second. */
const SLACK_MS = 2000
/** What dnsmasq gives when the network says nothing. */
const LEASE_S = 3600
const UNITS: Readonly<Record<string, number>> = { seconds: 1, minutes: 60, hours: 3600 }

/** @returns by uuid, IPv4 first; one that has none is not in it */
export async function leasedAddresses(c: Connection, asking: readonly Asking[]): Promise<Map<string, string[]>> {
  const found = new Map<string, string[]>()
  if (asking.length === 0) return found
  const networks = await c.networks.list(['active'])
  const leases = await Promise.all(
    networks.map(async (n): Promise<{ given_s: number; lease: DhcpLease }[]> => {
      // a network that was just taken down, or has no DHCP
      const [all, xml] = await Promise.all([c.networks.leases(n), c.networks.xml(n)]).catch(() => [[], ''] as const)
      const length = leaseLength(xml)
      // one that never ends does not tell when it was given
      return all.flatMap((l) => (l.expires_s === null ? [] : [{ given_s: l.expires_s - length, lease: l }]))
    }),
  )
  for (const a of asking) {
    const macs = new Set(a.macs.map((m) => m.toLowerCase()))
    const mine = leases
      .flat()
      .filter((l) => macs.has(l.lease.mac?.toLowerCase() ?? '') && l.given_s * 1000 >= a.since - SLACK_MS)
      .map((l) => l.lease.address)
    const unique = [...new Set(mine)]
    const ordered = [...unique.filter((x) => !x.includes(':')), ...unique.filter((x) => x.includes(':'))]
    if (ordered.length > 0) found.set(a.uuid, ordered)
  }
  return found
}

/**
 * Enters the addresses that running VMs have by now and had not when nobody waited for them any more: for whoever may read the registry, and may
 * not ask libvirt. A driver that refuses to tell of networks has none to tell of.
 */
export async function noteAddresses(registry: Registry, c: Connection): Promise<void> {
  const late = (await registry.all()).filter(
    (r) => r.state === 'running' && !r.doing && r.addresses.length === 0 && r.nics.length > 0,
  )
  if (late.length === 0) return
  const asking = late.map((r) => ({ uuid: r.uuid, macs: r.nics.map((n) => n.mac), since: Date.parse(r.state_at) }))
  const found = await leasedAddresses(c, asking).catch((error) => {
    if (isLibvirtError(error)) return new Map<string, string[]>()
    throw error
  })
  if (found.size === 0) return
  await registry.change((vms) => {
    for (const { name, uuid, state_at } of late) {
      const [r, addresses] = [vms.get(name), found.get(uuid)]
      // unless it was stopped, or started anew, meanwhile
      const same = r?.uuid === uuid && r.state_at === state_at && !r.doing && r.addresses.length === 0
      if (r && addresses && same) vms.set(name, { ...r, addresses })
    }
  })
}

/** The longest that the network's description has: so a lease is rather thought too old than too young. */
export function leaseLength(xml: string): number {
  const all = [...xml.matchAll(/<lease\s+expiry=['"](\d+)['"](?:\s+unit=['"](\w+)['"])?/g)]
  return Math.max(0, ...all.map(([, n, unit = 'minutes']) => Number(n) * (UNITS[unit] ?? 60))) || LEASE_S
}
