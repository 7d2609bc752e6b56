import type { Ovf } from '../images/index.ts'
import type { DomainNic, NetworkChoice, VmWords } from './types.ts'

/**
 * The manifest's network cards, else the OVF's, else one: a VM without any is rarely what was exported. An empty list in the manifest
 * means none.
 */
export function mergeNics(
  words: VmWords,
  ovf: Ovf | undefined,
  model: string,
): { nics: DomainNic[]; warnings: string[] } {
  const warnings: string[] = []
  const taken = new Set<string>()
  const found: DomainNic['original'][] = (words.nics ?? ovf?.nics ?? [{}]).map((n) => {
    const { mac, network } = n
    const name = 'id' in n ? n.id : 'name' in n ? n.name : undefined
    const was = 'model' in n ? n.model : modelOf(ovf, mac)
    return {
      ...(mac ? { mac } : {}),
      ...(network ? { network } : {}),
      ...(typeof name === 'string' && name !== '' ? { name } : {}),
      ...(was ? { model: was } : {}),
    }
  })
  const nics = found.map((original, i) => {
    const mac = original.mac === undefined ? undefined : usableMac(original.mac)
    const what = `network card ${i + 1}${original.name ? ` (${JSON.stringify(original.name)})` : ''}`
    if (original.mac !== undefined && mac === undefined)
      warnings.push(
        `The MAC address ${JSON.stringify(original.mac)} of ${what} cannot be one card's address, so libvirt will make one up: what depends on it in the guest or in DHCP has to be changed.`,
      )
    const again = mac !== undefined && taken.has(mac)
    if (again)
      warnings.push(
        `The MAC address ${mac} of ${what} is that of an earlier card too, so libvirt will make up another one for it.`,
      )
    if (mac !== undefined) taken.add(mac)
    return {
      ...(mac === undefined || again ? {} : { mac }),
      model,
      network: networkOf(words.networks, original.network),
      original,
    }
  })
  return { nics, warnings }
}

/** hyperexport writes no models into a manifest, but the same card may be in the OVF. */
function modelOf(ovf: Ovf | undefined, mac: string | undefined): string | undefined {
  const same = mac === undefined ? undefined : ovf?.nics.find((n) => normal(n.mac) === normal(mac))
  return same?.model
}

const normal = (mac: string | undefined) => mac?.trim().toLowerCase().replaceAll('-', ':')

/**
 * Lower case with colons. Undefined for what libvirt refuses: not six bytes, a multicast address (and so the broadcast one), all
 * zero, or a first byte of FE, which libvirt keeps for its own end of the cable.
 */
export function usableMac(text: string): string | undefined {
  const mac = normal(text)!
  if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/.test(mac)) return undefined
  const first = Number.parseInt(mac.slice(0, 2), 16)
  return first % 2 === 1 || first === 0xfe || /^[0:]+$/.test(mac) ? undefined : mac
}

function networkOf(choice: NetworkChoice, source: string | undefined): string {
  const chosen = source !== undefined && Object.hasOwn(choice.by_name, source) ? choice.by_name[source] : undefined
  return chosen ?? choice.otherwise
}
