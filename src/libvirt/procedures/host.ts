/** Numbers and structures: libvirt's src/remote/remote_protocol.x, written down as facts. */
import { nothing, procedure } from '../procedure.ts'

/** REMOTE_AUTH_TYPE_LIST_MAX */
const AUTH_MAX = 20

export const connectOpen = procedure(
  1,
  'CONNECT_OPEN',
  (w, uri: string, flags: number) => void w.optionalString(uri).uint(flags),
  nothing,
)
export const connectClose = procedure(2, 'CONNECT_CLOSE', nothing, nothing)
export const getType = procedure(3, 'CONNECT_GET_TYPE', nothing, (r) => r.string())
export const getVersion = procedure(4, 'CONNECT_GET_VERSION', nothing, (r) => r.uhyperNumber())

export interface NodeInfo {
  cpu_model: string
  memory_bytes: number
  cpus: number
  /** 0 when not known */
  mhz: number
  numa_nodes: number
  sockets: number
  cores: number
  threads: number
}
export const nodeGetInfo = procedure(6, 'NODE_GET_INFO', nothing, (r): NodeInfo => {
  // char[32], each of them in a word of its own
  const model = Array.from({ length: 32 }, () => r.int())
  const end = model.indexOf(0)
  return {
    cpu_model: Buffer.from(end === -1 ? model : model.slice(0, end)).toString('latin1'),
    memory_bytes: r.uhyperNumber() * 1024,
    cpus: r.int(),
    mhz: r.int(),
    numa_nodes: r.int(),
    sockets: r.int(),
    cores: r.int(),
    threads: r.int(),
  }
})
export const getCapabilities = procedure(7, 'CONNECT_GET_CAPABILITIES', nothing, (r) => r.string())
export const getHostname = procedure(59, 'CONNECT_GET_HOSTNAME', nothing, (r) => r.string())
export const supportsFeature = procedure(
  60,
  'CONNECT_SUPPORTS_FEATURE',
  (w, feature: number) => void w.int(feature),
  (r) => r.int() !== 0,
)
/** 0 none, 1 SASL, 2 polkit */
export const authList = procedure(66, 'AUTH_LIST', nothing, (r) => r.array(AUTH_MAX, 4, (x) => x.int()))
export const authPolkit = procedure(70, 'AUTH_POLKIT', nothing, (r) => r.int() !== 0)
export const nodeGetFreeMemory = procedure(102, 'NODE_GET_FREE_MEMORY', nothing, (r) => r.uhyperNumber())
export const getUri = procedure(110, 'CONNECT_GET_URI', nothing, (r) => r.string())
export const getLibVersion = procedure(157, 'CONNECT_GET_LIB_VERSION', nothing, (r) => r.uhyperNumber())

export interface DomainCapabilitiesQuery {
  emulator?: string
  arch?: string
  machine?: string
  /** kvm, qemu … */
  virt_type?: string
}
export const getDomainCapabilities = procedure(
  342,
  'CONNECT_GET_DOMAIN_CAPABILITIES',
  (w, q: DomainCapabilitiesQuery, flags: number) =>
    void w
      .optionalString(q.emulator)
      .optionalString(q.arch)
      .optionalString(q.machine)
      .optionalString(q.virt_type)
      .uint(flags),
  (r) => r.string(),
)
