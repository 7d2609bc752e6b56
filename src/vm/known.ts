import type { Action } from './action.ts'
import { domainOf, ownDomain } from './fence.ts'
import { hardwareOf } from './registry-recover.ts'
import { stateOf } from './halt.ts'
import { vmStateOf } from './state.ts'
import type { VmRecord } from './types.ts'

/**
 * The VM that an action is about: its entry, or one made from its domain when that carries our mark and the registry does not know it.
 * @returns undefined when there is neither
 * @throws VmError vm-conflict when a domain of that name is not ours
 */
export async function knownRecord(a: Action): Promise<VmRecord | undefined> {
  const { parts, name } = a
  const record = await parts.registry.get(name)
  return a.ask(`to see whether there is a VM "${name}"`, async (s) => {
    // what is left of a VM can be deleted though a stranger has its name
    const look = record && a.action === 'delete' ? domainOf : ownDomain
    const d = await look(s, { ...parts, name }, record)
    if (record || !d) return record
    const state = await stateOf(s, d.domain)
    const now = new Date().toISOString()
    a.hooks.log('agent', `the registry does not know the VM "${name}"; its domain in libvirt carries our mark\n`)
    return {
      uuid: d.domain.uuid,
      name,
      host: parts.host,
      uri: parts.link.uri,
      desired: state && vmStateOf(state) === 'running' ? 'running' : 'stopped',
      order: d.made ?? a.order,
      origin: 'recovered',
      ...hardwareOf(d.xml),
      autostart: false,
      metadata: {},
      state: state ? vmStateOf(state) : 'unknown',
      state_at: now,
      addresses: [],
      created_at: now,
      updated_at: now,
    }
  })
}
