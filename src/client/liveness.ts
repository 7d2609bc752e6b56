/**
 * Is there an agent? A lease says who it is and carries a counter. On the agent's own host, boot and pid namespace its
 * process tells at once; from anywhere else only a counter that moves is a sign of life (no clock of another host and
 * no mtime is compared: with clocks that differ both lie).
 */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { isAlive } from '../process/identity.ts'
import { type Lease, thisProcess } from '../spool/owner.ts'
import type { Place } from './place.ts'
import { readJson } from './read-json.ts'

export { readJson }

interface AgentSeen {
  lease: Lease
  /** alive and dead are certain; unknown: on another host, and not watched for long enough */
  state: 'alive' | 'dead' | 'unknown'
}

export interface Watcher {
  /** Looks once. With the lease's lifetime passed between two looks nothing is unknown any more. */
  look(): Promise<AgentSeen[]>
}

/** @param leaseMs after this long without a change of the counter a lease counts as dead, in ms on our monotonic clock */
export function watchAgents(place: Place, leaseMs: number): Watcher {
  const seen = new Map<string, { counter: number; since: number; moved: boolean }>()
  return {
    async look() {
      const now = performance.now()
      const agents: AgentSeen[] = []
      for (const lease of await readLeases(place)) {
        const local = localState(lease)
        if (local !== undefined) {
          agents.push({ lease, state: local })
          continue
        }
        const before = seen.get(lease.owner)
        if (before === undefined) seen.set(lease.owner, { counter: lease.counter, since: now, moved: false })
        else if (before.counter !== lease.counter)
          seen.set(lease.owner, { counter: lease.counter, since: now, moved: true })
        const entry = seen.get(lease.owner)!
        const fresh = now - entry.since < leaseMs
        agents.push({ lease, state: fresh ? (entry.moved ? 'alive' : 'unknown') : 'dead' })
      }
      return agents
    },
  }
}

/** What the process table says, where it can: undefined for an agent on another host or in another pid namespace. */
function localState(lease: Lease): 'alive' | 'dead' | undefined {
  const self = thisProcess()
  if (lease.boot_id !== self.boot_id || lease.pidns !== self.pidns) return undefined
  const id = { pid: lease.pid, start_ticks: lease.start_ticks, boot_id: lease.boot_id, pidns: lease.pidns }
  return isAlive(id) ? 'alive' : 'dead'
}

async function readLeases(place: Place): Promise<Lease[]> {
  let names: string[]
  try {
    names = await readdir(place.layout.owners)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
  const leases: Lease[] = []
  for (const name of names.sort()) {
    if (name.startsWith('.') || !name.endsWith('.json')) continue
    const lease = await readJson<Lease>(join(place.layout.owners, name))
    if (lease !== undefined && typeof lease.owner === 'string' && typeof lease.counter === 'number') leases.push(lease)
  }
  return leases
}

/**
 * Is an agent alive now? Asks the process table first; only when every lease is another host's does it watch the
 * counters, for at most `patienceMs` (a heartbeat comes every quarter of a lease).
 */
export async function liveAgent(
  place: Place,
  leaseMs: number,
  o: { signal?: AbortSignal; onWatch?(hosts: string[]): void } = {},
): Promise<Lease | undefined> {
  const watcher = watchAgents(place, leaseMs)
  const patience = leaseMs / 4 + 2000
  const start = performance.now()
  for (let first = true; ; first = false) {
    const agents = await watcher.look()
    const alive = agents.find((a) => a.state === 'alive')
    if (alive !== undefined) return alive.lease
    const unknown = agents.filter((a) => a.state === 'unknown')
    if (unknown.length === 0 || performance.now() - start > patience) return undefined
    if (first) o.onWatch?.(unknown.map((a) => a.lease.host))
    await pause(250, o.signal)
  }
}

/** Waits, or rejects with the signal's reason. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason)
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', stop)
      resolve()
    }, ms)
    const stop = (): void => {
      clearTimeout(timer)
      reject(signal?.reason)
    }
    signal?.addEventListener('abort', stop, { once: true })
  })
}
