/** Numbers and structures: libvirt's src/remote/remote_protocol.x, written down as facts. */
import { nothing, procedure, slowProcedure } from '../procedure.ts'
import {
  DOMAIN_LEAST,
  type Domain,
  LIST_MAX,
  type ParameterValue,
  readDomain,
  readParameter,
  writeDomain,
  writeUuid,
} from '../structs.ts'
import type { XdrReader, XdrWriter } from '../xdr.ts'

const domain = (w: XdrWriter, d: Domain): void => writeDomain(w, d)
const domainAndFlags = (w: XdrWriter, d: Domain, flags: number): void => {
  writeDomain(w, d)
  w.uint(flags)
}
const xmlAndFlags = (w: XdrWriter, xml: string, flags: number): void => void w.string(xml).uint(flags)
const truth = (r: XdrReader): boolean => r.int() !== 0

export const domainCreateXml = slowProcedure(10, 'DOMAIN_CREATE_XML', xmlAndFlags, readDomain)
export const domainGetXml = procedure(14, 'DOMAIN_GET_XML_DESC', domainAndFlags, (r) => r.string())
export const domainGetAutostart = procedure(15, 'DOMAIN_GET_AUTOSTART', domain, truth)

export interface RawDomainInfo {
  state: number
  max_memory_bytes: number
  memory_bytes: number
  vcpus: number
  /** of all vcpus since the start */
  cpu_time_ns: number
}
export const domainGetInfo = procedure(
  16,
  'DOMAIN_GET_INFO',
  domain,
  (r): RawDomainInfo => ({
    state: r.uint(),
    max_memory_bytes: r.uhyperNumber() * 1024,
    memory_bytes: r.uhyperNumber() * 1024,
    vcpus: r.uint(),
    cpu_time_ns: r.uhyperNumber(),
  }),
)
export const domainLookupById = procedure(22, 'DOMAIN_LOOKUP_BY_ID', (w, id: number) => void w.int(id), readDomain)
export const domainLookupByName = procedure(
  23,
  'DOMAIN_LOOKUP_BY_NAME',
  (w, name: string) => void w.string(name),
  readDomain,
)
export const domainLookupByUuid = procedure(
  24,
  'DOMAIN_LOOKUP_BY_UUID',
  (w, uuid: string) => writeUuid(w, uuid),
  readDomain,
)
export const domainReboot = slowProcedure(27, 'DOMAIN_REBOOT', domainAndFlags, nothing)
export const domainResume = slowProcedure(28, 'DOMAIN_RESUME', domain, nothing)
export const domainSetAutostart = procedure(
  29,
  'DOMAIN_SET_AUTOSTART',
  (w, d: Domain, on: boolean) => {
    writeDomain(w, d)
    w.int(on ? 1 : 0)
  },
  nothing,
)
export const domainSuspend = slowProcedure(34, 'DOMAIN_SUSPEND', domain, nothing)
export const domainIsActive = procedure(150, 'DOMAIN_IS_ACTIVE', domain, truth)
export const domainIsPersistent = procedure(151, 'DOMAIN_IS_PERSISTENT', domain, truth)
export const domainManagedSave = slowProcedure(182, 'DOMAIN_MANAGED_SAVE', domainAndFlags, nothing)
export const domainHasManagedSave = procedure(183, 'DOMAIN_HAS_MANAGED_SAVE_IMAGE', domainAndFlags, truth)
export const domainManagedSaveRemove = slowProcedure(184, 'DOMAIN_MANAGED_SAVE_REMOVE', domainAndFlags, nothing)
export const domainCreate = slowProcedure(196, 'DOMAIN_CREATE_WITH_FLAGS', domainAndFlags, readDomain)
/** What follows is a stream. */
export const domainOpenConsole = slowProcedure(
  201,
  'DOMAIN_OPEN_CONSOLE',
  (w, d: Domain, device: string | null, flags: number) => {
    writeDomain(w, d)
    w.optionalString(device).uint(flags)
  },
  nothing,
)
export const domainGetState = procedure(212, 'DOMAIN_GET_STATE', domainAndFlags, (r) => ({
  state: r.int(),
  reason: r.int(),
}))
export const domainUndefine = slowProcedure(231, 'DOMAIN_UNDEFINE_FLAGS', domainAndFlags, nothing)
export const domainDestroy = slowProcedure(234, 'DOMAIN_DESTROY_FLAGS', domainAndFlags, nothing)
export const domainReset = slowProcedure(245, 'DOMAIN_RESET', domainAndFlags, nothing)
export const domainShutdown = slowProcedure(258, 'DOMAIN_SHUTDOWN_FLAGS', domainAndFlags, nothing)

/** virDomainMetadataType */
export const Metadata = { description: 0, title: 1, element: 2 } as const
export const domainSetMetadata = procedure(
  264,
  'DOMAIN_SET_METADATA',
  (w, d: Domain, type: number, text: string | null, prefix: string | null, uri: string | null, flags: number) => {
    writeDomain(w, d)
    w.int(type).optionalString(text).optionalString(prefix).optionalString(uri).uint(flags)
  },
  nothing,
)
export const domainGetMetadata = procedure(
  265,
  'DOMAIN_GET_METADATA',
  (w, d: Domain, type: number, uri: string | null, flags: number) => {
    writeDomain(w, d)
    w.int(type).optionalString(uri).uint(flags)
  },
  (r) => r.string(),
)
export const listAllDomains = procedure(
  273,
  'CONNECT_LIST_ALL_DOMAINS',
  (w, flags: number) => void w.int(1).uint(flags),
  (r) => {
    const domains = r.array(LIST_MAX, DOMAIN_LEAST, readDomain)
    r.uint() // their number once more
    return domains
  },
)

export interface DomainStats {
  domain: Domain
  /** by libvirt's names, e.g. `state.state`, `cpu.time` (ns), `balloon.current` (KiB), `net.0.rx.bytes`; what is not known is absent */
  values: Record<string, ParameterValue>
}
/** REMOTE_CONNECT_GET_ALL_DOMAIN_STATS_MAX */
const STATS_MAX = 262_144
export const getAllDomainStats = procedure(
  344,
  'CONNECT_GET_ALL_DOMAIN_STATS',
  (w, domains: readonly Domain[], groups: number, flags: number) =>
    void w.array(domains, LIST_MAX, writeDomain).uint(groups).uint(flags),
  (r): DomainStats[] =>
    r.array(LIST_MAX, DOMAIN_LEAST + 4, (x) => {
      const of = readDomain(x)
      const values: Record<string, ParameterValue> = Object.create(null)
      for (const [name, value] of x.array(STATS_MAX, 12, readParameter)) values[name] = value
      return { domain: of, values }
    }),
)
export const domainDefine = procedure(350, 'DOMAIN_DEFINE_XML_FLAGS', xmlAndFlags, readDomain)

export interface InterfaceAddress {
  family: 'ipv4' | 'ipv6' | 'unknown'
  address: string
  prefix: number
}
export interface DomainInterface {
  /** the host's name of it (lease, arp) or the guest's (agent) */
  name: string
  mac: string | null
  addresses: InterfaceAddress[]
}
/** virIPAddrType */
export const family = (type: number): InterfaceAddress['family'] =>
  type === 0 ? 'ipv4' : type === 1 ? 'ipv6' : 'unknown'
/** REMOTE_DOMAIN_INTERFACE_MAX and REMOTE_DOMAIN_IP_ADDR_MAX */
const INTERFACES_MAX = 2048
/** The agent's answer waits for the guest. */
export const domainInterfaceAddresses = slowProcedure(
  353,
  'DOMAIN_INTERFACE_ADDRESSES',
  (w, d: Domain, source: number, flags: number) => {
    writeDomain(w, d)
    w.uint(source).uint(flags)
  },
  (r): DomainInterface[] =>
    r.array(INTERFACES_MAX, 12, (x) => ({
      name: x.string(),
      mac: x.optionalString(),
      addresses: x.array(INTERFACES_MAX, 12, (y) => ({
        family: family(y.int()),
        address: y.string(),
        prefix: y.uint(),
      })),
    })),
)
