/** Manifests of VM jobs, checked as a file of them is. */
import { hostname } from 'node:os'
import { watchAgents } from './liveness.ts'
import { type Prepared, prepareBytes } from './manifest-files.ts'
import type { Place } from './place.ts'
import type { VmView } from './vms.ts'

export type VmAction = 'create' | 'start' | 'stop' | 'restart' | 'delete'

/** The fields of a manifest of kind vm beside kind, action and name (docs/manifests.md). */
export interface VmFields {
  vm?: Record<string, unknown>
  wait_for_address?: boolean | string
  force?: boolean
  grace?: string
  keep_disks?: boolean
  hosts?: string | readonly string[]
  after?: string | readonly string[]
  priority?: number
  labels?: Readonly<Record<string, string>>
}

/**
 * @returns what can be dropped
 * @throws ManifestError (65)
 */
export function vmJob(action: VmAction, name: string, fields: VmFields = {}): Prepared {
  const manifest = { kind: 'vm', action, name, ...fields }
  const said = Object.fromEntries(Object.entries(manifest).filter(([, v]) => v !== undefined))
  return prepareBytes(Buffer.from(`${JSON.stringify(said, null, 2)}\n`), 'vm.json', process.cwd())
}

/**
 * Which host must work on a VM that there is: only its own can. Nothing needs to be said where all agents are on that host.
 * @returns the `hosts` of the manifest
 */
export async function hostOf(place: Place, vm: Pick<VmView, 'host'>): Promise<string | undefined> {
  const agents = await watchAgents(place, place.config.lease.timeout).look()
  const hosts = new Set([hostname(), ...agents.filter((a) => a.state !== 'dead').map((a) => a.lease.host)])
  hosts.delete(vm.host)
  return hosts.size > 0 && /^[A-Za-z0-9][\w.-]*$/.test(vm.host) ? vm.host : undefined
}
