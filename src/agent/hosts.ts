/**
 * Which agents may run a job that names hosts: each entry of `hosts` is a host name or a label of `host.labels`, several joined by "+" must
 * all hold, and one entry that holds is enough. Who may not run a job sets it aside; it costs nothing until labels change.
 */
import { hostname } from 'node:os'
import type { Lease } from '../spool/index.ts'
import type { Agent } from './state.ts'

export interface Hosts {
  /** may this agent run it? */
  serves(hosts: readonly string[]): boolean
  /** under what such a job is set aside: no group can be called so */
  parking(hosts: readonly string[]): string
  isParking(group: string): boolean
  /** the labels may have changed */
  reconfigure(): void
  /**
   * What a job waits for that was set aside here. Undefined when an agent of another host takes it up, as the `leases` tell, or when it was
   * set aside for something else.
   */
  wait(parking: string | undefined, leases: readonly Lease[] | undefined): string | undefined
}

const PREFIX = 'hosts '

export function createHosts(a: Agent): Hosts {
  const own = hostNames(hostname())
  const serves = (hosts: readonly string[]): boolean => fits(hosts, own, a.config.host.labels)
  return {
    serves,
    parking: (hosts) => PREFIX + hosts.join(' '),
    isParking: (group) => group.startsWith(PREFIX),
    reconfigure() {
      for (const group of a.plan?.parkedGroups() ?? [])
        if (group.startsWith(PREFIX) && serves(group.slice(PREFIX.length).split(' ')))
          a.plan?.unpark(group, Number.POSITIVE_INFINITY)
    },
    wait(parking, leases) {
      if (!parking?.startsWith(PREFIX)) return undefined
      const wanted = parking.slice(PREFIX.length).split(' ')
      const what = `an agent whose host is or has ${wanted.join(' or ')}`
      if (leases === undefined) return what
      const others = leases.filter((l) => l.owner !== a.spool.owner?.id)
      if (others.some((l) => fits(wanted, hostNames(l.host), l.labels ?? []))) return undefined
      const there = [...new Set([hostname(), ...others.map((l) => l.host)])]
      return `${what}: there ${there.length === 1 ? `is only ${there[0]}` : `are ${there.join(', ')}`} (host.labels says what a host has)`
    },
  }
}

/** A host is also known without its domain. */
const hostNames = (name: string): string[] => [...new Set([name, name.split('.')[0]!])].map((n) => n.toLowerCase())

function fits(hosts: readonly string[], names: readonly string[], labels: readonly string[]): boolean {
  const has = (word: string): boolean => labels.includes(word) || names.includes(word.toLowerCase())
  return hosts.some((entry) => entry.split('+').every(has))
}
