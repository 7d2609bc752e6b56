import type { Session } from '../libvirt/index.ts'
import { type NicSpec, VmError } from './types.ts'

/** Whether the networks are there and up, said before anything is made. Bridges are the host's, and told by libvirt at the start. @throws VmError */
export async function checkNetworks(s: Session, nics: readonly NicSpec[]): Promise<void> {
  const names = new Set(nics.flatMap((n) => (n.bridge === undefined ? [n.network ?? 'default'] : [])))
  for (const name of names) {
    const network = await s.query.networks.byName(name)
    if (!network) {
      const there = (await s.query.networks.list()).map((n) => n.name).sort()
      throw new VmError(
        `libvirt has no network "${name}"; it has ${there.length === 0 ? 'none' : there.map((n) => `"${n}"`).join(', ')}.`,
        {
          code: 'network-not-found',
          hint: 'Name one of these, or a bridge of the host ({"bridge": "br0"}), or define the network; vm.network in the configuration is the one that is taken when none is named.',
        },
      )
    }
    if (!(await s.query.networks.isActive(network))) {
      throw new VmError(`The network "${name}" is not active.`, {
        code: 'network-not-found',
        hint: `Start it: virsh net-start ${name} (and virsh net-autostart ${name}).`,
      })
    }
  }
}
