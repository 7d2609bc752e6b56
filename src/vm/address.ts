import { readFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { XMLParser } from 'fast-xml-parser'
import { DeadlineError, type Domain, isLibvirtError, type Session } from '../libvirt/index.ts'
import type { VmLink } from './link.ts'
import { pause } from './pause.ts'

/*
 * The address of a guest that was just started. libvirt tells of leases that an earlier boot took with the same MAC address, and dnsmasq keeps
 * them when the domain is gone: such an address answers nobody, or somebody else. A lease counts when the guest took or renewed it after the start.
 */

/** A lease as it was before the start; plain data, so that it can be kept. */
export interface KnownLease {
  mac: string
  address: string
  /** seconds since 1970; null: it never ends */
  expires_s: number | null
}

/** What the cards had leased before the start. MUST be called while the VM does not run. */
export async function leasesBefore(
  s: Pick<Session, 'query'>,
  macs: readonly string[],
  signal?: AbortSignal,
): Promise<KnownLease[]> {
  const mine = new Set(macs.map((m) => m.toLowerCase()))
  const networks = await s.query.networks.list(['active'], { signal }).catch(nothingIfRefused)
  const found = await Promise.all(
    networks.map((n) => s.query.networks.leases(n, {}, { signal }).catch(nothingIfRefused)),
  )
  return found
    .flat()
    .filter((l) => l.mac !== null && mine.has(l.mac.toLowerCase()))
    .map((l) => ({ mac: l.mac!.toLowerCase(), address: l.address, expires_s: l.expires_s }))
}

/** A network without DHCP, one that was just taken down, a driver without networks: there are no leases. */
function nothingIfRefused(e: unknown): never[] {
  if (isLibvirtError(e)) return []
  throw e
}

/** between two looks */
const EVERY_MS = { first: 200, last: 1000 }
/** for the guest's agent, and for whoever has an address that never ends */
const AGENT_MS = 10_000
const PROBE_MS = 1000

export interface WaitForAddress {
  link: Pick<VmLink, 'use'>
  uuid: string
  macs: readonly string[]
  /** what {@link leasesBefore} said; absent when the VM ran already: then every lease that has not ended counts */
  before?: readonly KnownLease[]
  timeout_ms: number
  signal: AbortSignal
  /** what is waited for, anew when that changes */
  onWait?(message: string): void
  /** why there is none in the end: a whole sentence */
  onNone?(reason: string): void
  /** libvirt is away, or (undefined) there again */
  onAway?(why: string | undefined): void
  /** whether somebody answers there; of leases that never end it is the only sign of life */
  answers?(address: string, mac: string): Promise<boolean>
}

/**
 * Waits until a card of the VM has an address, and gives all that are known then, IPv4 first. Time in which libvirt cannot be asked does not count.
 * @returns [] when there was none in time, or when the VM went off
 * @throws the signal's reason, what `link.use` throws
 */
export async function waitForAddress(o: WaitForAddress): Promise<string[]> {
  let deadline = performance.now() + o.timeout_ms
  let said: string | undefined
  const say = (message: string): void => {
    if (message !== said) o.onWait?.(message)
    said = message
  }
  for (let every = EVERY_MS.first; ; every = Math.min(EVERY_MS.last, every * 1.5)) {
    let away: number | undefined
    const seen = await o.link.use((s) => look(s, o), {
      signal: o.signal,
      what: 'to see the address of the VM',
      onWait: (why) => {
        away ??= performance.now()
        o.onAway?.(why)
        if (why !== undefined) say(why)
      },
    })
    if (away !== undefined) deadline += performance.now() - away
    if (seen.addresses.length > 0) return seen.addresses
    if (seen.gone !== undefined || performance.now() >= deadline) {
      o.onNone?.(seen.gone ?? `${seen.waits_for}; there was none within ${Math.round(o.timeout_ms / 1000)} s.`)
      return []
    }
    say(`waits for an address: ${seen.waits_for}`)
    await pause(Math.min(every, Math.max(1, deadline - performance.now())), o.signal)
  }
}

interface Seen {
  addresses: string[]
  /** why there will never be one */
  gone?: string
  waits_for: string
}

async function look(s: Session, o: WaitForAddress): Promise<Seen> {
  const { signal } = o
  const domain = await s.query.domains.byUuid(o.uuid, { signal })
  if (!domain) return { addresses: [], gone: 'libvirt has no such domain any more.', waits_for: '' }
  const { state, reason } = await s.query.domains.state(domain, { signal })
  if (state === 'shutoff' || state === 'crashed')
    return { addresses: [], gone: `The VM went off while its address was waited for (${reason}).`, waits_for: '' }
  const now = await leasesBefore(s, o.macs, signal)
  const leased: string[] = []
  for (const l of now) if (await isFresh(l, o)) leased.push(l.address)
  if (leased.length > 0) return { addresses: ordered(leased), waits_for: '' }
  const guest = readGuest(await s.query.domains.xml(domain, [], { signal }))
  const told = guest.agent === 'connected' ? await fromAgent(s, domain, o) : undefined
  if (told !== undefined && told.length > 0) return { addresses: ordered(told), waits_for: '' }
  return { addresses: [], waits_for: words(guest, now, told) }
}

/** Has the guest itself asked for it since the start? A renewal changes when it ends. */
async function isFresh(l: KnownLease, o: WaitForAddress): Promise<boolean> {
  if (o.before === undefined) return l.expires_s !== null || (await (o.answers ?? answers)(l.address, l.mac))
  const old = o.before.find((b) => b.mac === l.mac && b.address === l.address)
  if (old === undefined || old.expires_s !== l.expires_s) return true
  return l.expires_s === null && (await (o.answers ?? answers)(l.address, l.mac))
}

/** Whether that very card answers: it takes or refuses a connection, and the kernel has its MAC address for it (proc(5), /proc/net/arp). */
async function answers(address: string, mac: string): Promise<boolean> {
  if (!(await takesOrRefuses(address))) return false
  if (address.includes(':')) return true
  const neighbours = await readFile('/proc/net/arp', 'utf8').catch(() => '')
  return neighbours.split('\n').some((line) => {
    const [ip, , , card] = line.split(/\s+/)
    return ip === address && card?.toLowerCase() === mac
  })
}

/** Whoever does neither is not there, or behind a wall. The port is of no account. */
function takesOrRefuses(address: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: address, port: 22 })
    const end = (yes: boolean) => {
      socket.destroy()
      resolve(yes)
    }
    socket.setTimeout(PROBE_MS, () => end(false))
    socket.once('connect', () => end(true))
    socket.once('error', (e: NodeJS.ErrnoException) => end(e.code === 'ECONNREFUSED'))
  })
}

/** undefined when it gives no answer; that is its guest's business, not the daemon's */
async function fromAgent(s: Session, domain: Domain, o: WaitForAddress): Promise<string[] | undefined> {
  const mine = new Set(o.macs.map((m) => m.toLowerCase()))
  try {
    const cards = await s.control.domains.addresses(domain, 'agent', { signal: o.signal, deadline_ms: AGENT_MS })
    return cards
      .filter((c) => c.mac !== null && mine.has(c.mac.toLowerCase()))
      .flatMap((c) => c.addresses.map((a) => a.address))
      .filter((a) => !isLocal(a))
  } catch (e) {
    if (isLibvirtError(e) || e instanceof DeadlineError) return undefined
    throw e
  }
}

/** what a card gives itself without anybody's help */
const isLocal = (a: string): boolean => /^(127\.|169\.254\.|fe[89ab][0-9a-f]:|::1$)/i.test(a)

function ordered(addresses: readonly string[]): string[] {
  const unique = [...new Set(addresses)]
  return [...unique.filter((a) => !a.includes(':')), ...unique.filter((a) => a.includes(':'))]
}

interface Guest {
  networks: string[]
  bridges: string[]
  agent: 'connected' | 'disconnected' | 'none'
}

function readGuest(xml: string): Guest {
  const parser = new XMLParser({
    ignoreAttributes: false,
    attributeNamePrefix: '',
    parseTagValue: false,
    parseAttributeValue: false,
    isArray: (name) => name === 'interface' || name === 'channel',
  })
  const devices = (parser.parse(xml)?.domain?.devices ?? {}) as {
    interface?: { source?: { network?: string; bridge?: string } }[]
    channel?: { target?: { name?: string; state?: string } }[]
  }
  const agent = devices.channel?.find((c) => c.target?.name === 'org.qemu.guest_agent.0')
  const cards = devices.interface ?? []
  return {
    networks: unique(cards.map((c) => c.source?.network)),
    bridges: unique(cards.map((c) => (c.source?.network === undefined ? c.source?.bridge : undefined))),
    agent: agent ? (agent.target?.state === 'connected' ? 'connected' : 'disconnected') : 'none',
  }
}

const unique = (names: readonly (string | undefined)[]): string[] => [
  ...new Set(names.filter((n): n is string => n !== undefined)),
]

function words(g: Guest, leases: readonly KnownLease[], told: string[] | undefined): string {
  const agent =
    g.agent === 'none'
      ? ''
      : g.agent === 'disconnected'
        ? "; the guest's agent is not connected"
        : told === undefined
          ? "; the guest's agent gives no answer"
          : "; the guest's agent knows of no address"
  const quoted = (names: readonly string[]) => names.map((n) => `"${n}"`).join(', ')
  if (g.networks.length === 0 && g.bridges.length > 0) {
    const only = `no lease can be seen on the bridge ${quoted(g.bridges)}, so only an agent in the guest can tell`
    return `${only}${agent}`
  }
  const old = leases.length > 0 ? `; ${leases.map((l) => l.address).join(', ')} is of an earlier boot` : ''
  return `no lease yet on the network ${quoted(g.networks)}${old}${agent}`
}
