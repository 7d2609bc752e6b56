import type { Call, CallOptions } from './procedure.ts'
import * as p from './procedures/host.ts'

export type { DomainCapabilitiesQuery, NodeInfo } from './procedures/host.ts'

/** 11003000 is 11.3.0 */
function version(n: number): string {
  return `${Math.floor(n / 1_000_000)}.${Math.floor(n / 1000) % 1000}.${n % 1000}`
}

/** What the daemon and its host are. */
export function hostCalls(call: Call) {
  return {
    /** of the daemon's libvirt, e.g. 9.0.0; also the cheapest proof that it still answers */
    version: async (o?: CallOptions) => version(await call(p.getLibVersion, [], o)),
    /** of the hypervisor, e.g. QEMU's */
    hypervisorVersion: async (o?: CallOptions) => version(await call(p.getVersion, [], o)),
    /** QEMU, TEST … */
    type: async (o?: CallOptions) => call(p.getType, [], o),
    hostname: async (o?: CallOptions) => call(p.getHostname, [], o),
    /** as the daemon understood it */
    uri: async (o?: CallOptions) => call(p.getUri, [], o),
    /** XML: processor, memory, kinds of guests. The first time, the daemon starts every QEMU it finds (8 s) */
    capabilities: async (o?: CallOptions) => call(p.getCapabilities, [], o),
    /** XML: what a domain of this kind may have. A `kvm` that is offered here need not work: see the README */
    domainCapabilities: async (q: p.DomainCapabilitiesQuery = {}, o?: CallOptions) =>
      call(p.getDomainCapabilities, [q, 0], o),
    node: async (o?: CallOptions) => call(p.nodeGetInfo, [], o),
    /** bytes; caches of the kernel do not count as free */
    freeMemory: async (o?: CallOptions) => call(p.nodeGetFreeMemory, [], o),
  }
}
