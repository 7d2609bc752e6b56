import { isLibvirtError } from './errors.ts'
import { bits, type FlagsOf, ListNetworksFlags, NetworkDefineFlags, NetworkXmlFlags } from './flags.ts'
import type { Call, CallOptions } from './procedure.ts'
import * as p from './procedures/network.ts'
import type { Network } from './structs.ts'

export type { DhcpLease } from './procedures/network.ts'

export function networkCalls(call: Call) {
  const lookup = async (found: Promise<Network>): Promise<Network | undefined> => {
    try {
      return await found
    } catch (error) {
      if (isLibvirtError(error, 'no_network')) return undefined
      throw error
    }
  }
  return {
    list: async (flags?: FlagsOf<typeof ListNetworksFlags>, o?: CallOptions) =>
      call(p.listAllNetworks, [bits(ListNetworksFlags, flags)], o),
    /** undefined when there is none */
    byName: async (name: string, o?: CallOptions) => lookup(call(p.networkLookupByName, [name], o)),
    byUuid: async (uuid: string, o?: CallOptions) => lookup(call(p.networkLookupByUuid, [uuid], o)),
    define: async (xml: string, flags: FlagsOf<typeof NetworkDefineFlags> = [], o?: CallOptions) =>
      flags.length === 0
        ? call(p.networkDefine, [xml], o)
        : call(p.networkDefineFlags, [xml, bits(NetworkDefineFlags, flags)], o),
    /** Starts a defined network: bridge, dnsmasq, firewall. Error 55 when it is up already. */
    create: async (n: Network, o?: CallOptions) => call(p.networkCreate, [n], o),
    /** Starts one that is gone when it is stopped. */
    createTransient: async (xml: string, o?: CallOptions) => call(p.networkCreateXml, [xml], o),
    /** Takes it down; guests on it lose their link. */
    destroy: async (n: Network, o?: CallOptions) => call(p.networkDestroy, [n], o),
    undefine: async (n: Network, o?: CallOptions) => call(p.networkUndefine, [n], o),
    xml: async (n: Network, flags?: FlagsOf<typeof NetworkXmlFlags>, o?: CallOptions) =>
      call(p.networkGetXml, [n, bits(NetworkXmlFlags, flags)], o),
    isActive: async (n: Network, o?: CallOptions) => call(p.networkIsActive, [n], o),
    isPersistent: async (n: Network, o?: CallOptions) => call(p.networkIsPersistent, [n], o),
    autostart: async (n: Network, o?: CallOptions) => call(p.networkGetAutostart, [n], o),
    setAutostart: async (n: Network, on: boolean, o?: CallOptions) => call(p.networkSetAutostart, [n, on], o),
    /** the host's interface, e.g. virbr0 */
    bridge: async (n: Network, o?: CallOptions) => call(p.networkGetBridgeName, [n], o),
    /** all that dnsmasq has given out and not yet taken back, or those of one interface; see DhcpLease.expires_s */
    leases: async (n: Network, q: { mac?: string } = {}, o?: CallOptions) =>
      call(p.networkGetDhcpLeases, [n, q.mac ?? null, 0], o),
  }
}
