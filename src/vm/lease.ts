/**
 * Gives back the addresses of a VM that is gone. dnsmasq keeps a lease until it ends, whatever becomes of the domain, so that a host on which VMs
 * come and go runs out of addresses; libvirt has no call for it, but dnsmasq takes a release (RFC 2131, 4.4.4) from whoever is on its host.
 */
import { createSocket } from 'node:dgram'
import { setTimeout as sleep } from 'node:timers/promises'
import { XMLParser } from 'fast-xml-parser'
import { type DhcpLease, isLibvirtError, type Network, type Session } from '../libvirt/index.ts'

/** dnsmasq does it at once; a busy host may take longer to let it */
const GONE_MS = 2000

/**
 * @returns the leases that remain, since this process is not where the DHCP server is, or it did not listen; no harm: they end by themselves
 */
export async function releaseLeases(s: Pick<Session, 'query'>, macs: readonly string[]): Promise<DhcpLease[]> {
  const mine = new Set(macs.map((m) => m.toLowerCase()))
  const left: DhcpLease[] = []
  for (const network of await unlessRefused(s.query.networks.list(['active']))) {
    const leases = await leasesOf(s, network, mine)
    if (leases.length === 0) continue
    const servers = serversOf(await s.query.networks.xml(network))
    const sent = await Promise.all(servers.flatMap((server) => leases.map((l) => release(l, server))))
    if (!sent.includes(true)) {
      left.push(...leases)
      continue
    }
    const until = performance.now() + GONE_MS
    let there = leases
    while (there.length > 0 && performance.now() < until) {
      await sleep(20)
      there = await leasesOf(s, network, mine)
    }
    left.push(...there)
  }
  return left
}

async function leasesOf(s: Pick<Session, 'query'>, n: Network, macs: ReadonlySet<string>): Promise<DhcpLease[]> {
  const all = await unlessRefused(s.query.networks.leases(n))
  return all.filter((l) => l.mac !== null && macs.has(l.mac.toLowerCase()) && !l.address.includes(':'))
}

/** a network without DHCP, one that was just taken down, a driver without networks */
async function unlessRefused<T>(call: Promise<T[]>): Promise<T[]> {
  try {
    return await call
  } catch (e) {
    if (isLibvirtError(e)) return []
    throw e
  }
}

/** The IPv4 addresses of the host on the network, on which its DHCP server listens. */
function serversOf(xml: string): string[] {
  const parser = new XMLParser({ ignoreAttributes: false, attributeNamePrefix: '', isArray: (name) => name === 'ip' })
  const ips = (parser.parse(xml)?.network?.ip ?? []) as { address?: string; family?: string }[]
  return ips.flatMap((ip) => (ip.address !== undefined && /^\d+(\.\d+){3}$/.test(ip.address) ? [ip.address] : []))
}

/** @returns false when that address is none of this host: the packet would go astray */
function release(l: DhcpLease, server: string): Promise<boolean> {
  const socket = createSocket('udp4')
  return new Promise<boolean>((resolve) => {
    socket.once('error', () => resolve(false))
    socket.bind(0, server, () => {
      socket.send(releaseMessage(l.mac!, l.address, server), 67, server, (error) => resolve(!error))
    })
  }).finally(() => socket.close())
}

/** RFC 2131, figure 1 and table 5; options of RFC 2132. Without a client identifier dnsmasq goes by the hardware address. */
function releaseMessage(mac: string, address: string, server: string): Buffer {
  const ip = (a: string): number[] => a.split('.').map(Number)
  const m = Buffer.alloc(300)
  m.set([1, 1, 6]) // BOOTREQUEST, Ethernet, bytes of its addresses
  m.writeUInt32BE(Math.floor(Math.random() * 2 ** 32), 4)
  m.set(ip(address), 12)
  m.set(Buffer.from(mac.replaceAll(':', ''), 'hex'), 28)
  m.writeUInt32BE(0x63825363, 236)
  m.set([53, 1, 7, 54, 4, ...ip(server), 255], 240) // DHCPRELEASE, to whom
  return m
}
