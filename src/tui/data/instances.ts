/** The instances below a root: their agents, whether they are paused, and how much waits. */
import { readdir } from 'node:fs/promises'
import { instancesBelow } from '../../client/agents.ts'
import { control } from '../../client/control.ts'
import { ClientError } from '../../client/errors.ts'
import { watchAgents, type Watcher } from '../../client/liveness.ts'
import { locate, type Place } from '../../client/place.ts'
import { isPaused } from '../../spool/control.ts'

export interface Instance {
  name: string
  paused: boolean
  draining: boolean
  /** unknown: on another host, and not watched for long enough to tell */
  agents: { owner: string; host: string; pid: number; role: string; state: 'alive' | 'dead' | 'unknown' }[]
  /** dropped and not taken; accepted and not claimed; waiting for their time */
  queue?: number
  waiting?: number
  held?: number
  running?: number
  problem?: string
}

export interface Instances {
  look(root: string): Promise<Instance[]>
}

/** Remembers what it saw of other hosts' agents: only a counter that moves tells that they live. */
export function watchInstances(o: { config?: string } = {}): Instances {
  const watchers = new Map<string, Watcher>()
  const watcherOf = (place: Place): Watcher => {
    const known = watchers.get(place.layout.owners)
    if (known) return known
    const made = watchAgents(place, place.config.lease.timeout)
    watchers.set(place.layout.owners, made)
    return made
  }

  async function one(root: string, name: string): Promise<Instance> {
    const instance: Instance = { name, paused: false, draining: false, agents: [] }
    try {
      const place = await locate({ root, instance: name, ...o })
      const seen = await watcherOf(place).look()
      instance.agents = seen.map(({ lease, state }) => ({
        owner: lease.owner,
        host: lease.host,
        pid: lease.pid,
        role: lease.role,
        state,
      }))
      instance.paused = await isPaused(place.spool)
      if (seen.some((a) => a.state === 'alive')) instance.draining = await isDraining(place)
      const l = place.layout
      const [queue, waiting, held] = await Promise.all([l.queue, l.new, l.held].map(countOf))
      const claimed = await Promise.all((await namesOf(l.claimed)).map((owner) => countOf(`${l.claimed}/${owner}`)))
      const started = await countOf(l.started)
      Object.assign(instance, { queue, waiting, held })
      if (waiting !== undefined) instance.running = claimed.reduce<number>((a, b) => a + (b ?? 0), started ?? 0)
    } catch (error) {
      instance.problem = (error as Error).message
    }
    return instance
  }
  return {
    async look(root) {
      return Promise.all((await instancesBelow(root)).map((name) => one(root, name)))
    },
  }
}

async function isDraining(place: Place): Promise<boolean> {
  try {
    return (await control(place, 'status', { timeoutMs: 1000 })).draining === true
  } catch (error) {
    // A worker, or an agent on another host: not to be asked from here.
    if (error instanceof ClientError) return false
    throw error
  }
}

async function namesOf(dir: string): Promise<string[]> {
  try {
    return (await readdir(dir)).filter((n) => !n.startsWith('.'))
  } catch {
    return []
  }
}

/** undefined when this user may not look */
async function countOf(dir: string): Promise<number | undefined> {
  try {
    return (await readdir(dir)).filter((n) => !n.startsWith('.')).length
  } catch {
    return undefined
  }
}
