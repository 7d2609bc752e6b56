/** Numbers and structures: libvirt's src/remote/remote_protocol.x, written down as facts. */
import { nothing, procedure, slowProcedure } from '../procedure.ts'
import { LIST_MAX, NAMED_LEAST, type Network, readNamed, writeNamed, writeUuid } from '../structs.ts'
import type { XdrReader, XdrWriter } from '../xdr.ts'
import { family, type InterfaceAddress } from './domain.ts'

const network = (w: XdrWriter, n: Network): void => writeNamed(w, n)
const xml = (w: XdrWriter, text: string): void => void w.string(text)
const truth = (r: XdrReader): boolean => r.int() !== 0

export const networkCreate = slowProcedure(39, 'NETWORK_CREATE', network, nothing)
export const networkCreateXml = slowProcedure(40, 'NETWORK_CREATE_XML', xml, readNamed)
export const networkDefine = procedure(41, 'NETWORK_DEFINE_XML', xml, readNamed)
export const networkDestroy = slowProcedure(42, 'NETWORK_DESTROY', network, nothing)
export const networkGetXml = procedure(
  43,
  'NETWORK_GET_XML_DESC',
  (w, n: Network, flags: number) => {
    writeNamed(w, n)
    w.uint(flags)
  },
  (r) => r.string(),
)
export const networkGetAutostart = procedure(44, 'NETWORK_GET_AUTOSTART', network, truth)
export const networkGetBridgeName = procedure(45, 'NETWORK_GET_BRIDGE_NAME', network, (r) => r.string())
export const networkLookupByName = procedure(
  46,
  'NETWORK_LOOKUP_BY_NAME',
  (w, name: string) => void w.string(name),
  readNamed,
)
export const networkLookupByUuid = procedure(
  47,
  'NETWORK_LOOKUP_BY_UUID',
  (w, uuid: string) => writeUuid(w, uuid),
  readNamed,
)
export const networkSetAutostart = procedure(
  48,
  'NETWORK_SET_AUTOSTART',
  (w, n: Network, on: boolean) => {
    writeNamed(w, n)
    w.int(on ? 1 : 0)
  },
  nothing,
)
export const networkUndefine = procedure(49, 'NETWORK_UNDEFINE', network, nothing)
export const networkIsActive = procedure(152, 'NETWORK_IS_ACTIVE', network, truth)
export const networkIsPersistent = procedure(153, 'NETWORK_IS_PERSISTENT', network, truth)
export const listAllNetworks = procedure(
  283,
  'CONNECT_LIST_ALL_NETWORKS',
  (w, flags: number) => void w.int(1).uint(flags),
  (r): Network[] => {
    const networks = r.array(LIST_MAX, NAMED_LEAST, readNamed)
    r.uint() // their number once more
    return networks
  },
)

export interface DhcpLease {
  /** the bridge */
  interface: string
  /** seconds since 1970; null: never. A lease outlives the guest that took it: compare this with the guest's start */
  expires_s: number | null
  family: InterfaceAddress['family']
  mac: string | null
  iaid: string | null
  address: string
  prefix: number
  /** as the guest says: never identify one by it */
  hostname: string | null
  client_id: string | null
}
/** REMOTE_NETWORK_DHCP_LEASES_MAX */
const LEASES_MAX = 65_536
export const networkGetDhcpLeases = procedure(
  341,
  'NETWORK_GET_DHCP_LEASES',
  (w, n: Network, mac: string | null, flags: number) => {
    writeNamed(w, n)
    w.optionalString(mac).int(1).uint(flags)
  },
  (r): DhcpLease[] => {
    const leases = r.array(LEASES_MAX, 40, (x) => {
      const name = x.string()
      const expires = Number(x.hyper())
      return {
        interface: name,
        expires_s: expires === 0 ? null : expires,
        family: family(x.int()),
        mac: x.optionalString(),
        iaid: x.optionalString(),
        address: x.string(),
        prefix: x.uint(),
        hostname: x.optionalString(),
        client_id: x.optionalString(),
      }
    })
    r.uint() // their number once more
    return leases
  },
)
/** since libvirt 7.7 */
export const networkDefineFlags = procedure(
  432,
  'NETWORK_DEFINE_XML_FLAGS',
  (w, text: string, flags: number) => void w.string(text).uint(flags),
  readNamed,
)
