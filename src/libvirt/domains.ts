import {
  bits,
  ConsoleFlags,
  CreateFlags,
  DefineFlags,
  DestroyFlags,
  type FlagsOf,
  ImpactFlags,
  ListDomainsFlags,
  ManagedSaveFlags,
  ShutdownFlags,
  StatsFlags,
  StatsGroups,
  UndefineFlags,
  XmlFlags,
} from './flags.ts'
import { isLibvirtError } from './errors.ts'
import { type DomainState, domainState } from './names.ts'
import type { Call, CallOptions, Procedure } from './procedure.ts'
import * as p from './procedures/domain.ts'
import type { ByteStream } from './streams.ts'
import type { Domain } from './structs.ts'

export type { DomainInterface, DomainStats, InterfaceAddress } from './procedures/domain.ts'

export interface DomainInfo extends Omit<p.RawDomainInfo, 'state'> {
  state: DomainState['state']
}
export interface DomainWithState extends DomainState {
  domain: Domain
}
/** virDomainInterfaceAddressesSource. `lease`: a lease of an earlier boot is given too. `agent` blocks while the guest does not answer. */
const SOURCES = { lease: 0, agent: 1, arp: 2 } as const

const NO_DOMAINS: readonly Domain[] = []

type OpenStream = <A extends readonly unknown[]>(p: Procedure<A, void>, args: A, o?: CallOptions) => Promise<ByteStream>

export function domainCalls(call: Call, stream: OpenStream) {
  const lookup = async (found: Promise<Domain>): Promise<Domain | undefined> => {
    try {
      return await found
    } catch (error) {
      if (isLibvirtError(error, 'no_domain')) return undefined
      throw error
    }
  }
  const metadata = async (d: Domain, type: number, uri: string | null, flags: number, o?: CallOptions) => {
    try {
      return await call(p.domainGetMetadata, [d, type, uri, flags], o)
    } catch (error) {
      if (isLibvirtError(error, 'no_metadata')) return undefined
      throw error
    }
  }
  return {
    /** all of them, or those that the flags name */
    list: async (flags?: FlagsOf<typeof ListDomainsFlags>, o?: CallOptions) =>
      call(p.listAllDomains, [bits(ListDomainsFlags, flags)], o),
    /** undefined when there is none */
    byName: async (name: string, o?: CallOptions) => lookup(call(p.domainLookupByName, [name], o)),
    byUuid: async (uuid: string, o?: CallOptions) => lookup(call(p.domainLookupByUuid, [uuid], o)),
    byId: async (id: number, o?: CallOptions) => lookup(call(p.domainLookupById, [id], o)),

    /** Stores a definition. One with the uuid of a domain that exists replaces it; without a uuid, a name that exists is an error (9). */
    define: async (xml: string, flags?: FlagsOf<typeof DefineFlags>, o?: CallOptions) =>
      call(p.domainDefine, [xml, bits(DefineFlags, flags)], o),
    /** Starts a defined domain. Error 55 (operation_invalid) when it runs already. */
    create: async (d: Domain, flags?: FlagsOf<typeof CreateFlags>, o?: CallOptions) =>
      call(p.domainCreate, [d, bits(CreateFlags, flags)], o),
    /** Starts a domain that is gone when it stops. */
    createTransient: async (xml: string, flags?: FlagsOf<typeof CreateFlags>, o?: CallOptions) =>
      call(p.domainCreateXml, [xml, bits(CreateFlags, flags)], o),
    /** Asks the guest. It comes back at once; the guest may take its time or not notice. Without flags libvirt prefers the agent. */
    shutdown: async (d: Domain, modes?: FlagsOf<typeof ShutdownFlags>, o?: CallOptions) =>
      call(p.domainShutdown, [d, bits(ShutdownFlags, modes)], o),
    reboot: async (d: Domain, modes?: FlagsOf<typeof ShutdownFlags>, o?: CallOptions) =>
      call(p.domainReboot, [d, bits(ShutdownFlags, modes)], o),
    /** as the button on the case */
    reset: async (d: Domain, o?: CallOptions) => call(p.domainReset, [d, 0], o),
    /** Ends the guest now. Error 55 when it does not run. */
    destroy: async (d: Domain, flags?: FlagsOf<typeof DestroyFlags>, o?: CallOptions) =>
      call(p.domainDestroy, [d, bits(DestroyFlags, flags)], o),
    /** Removes the definition. A domain that runs goes on without one: destroy it first. */
    undefine: async (d: Domain, flags?: FlagsOf<typeof UndefineFlags>, o?: CallOptions) =>
      call(p.domainUndefine, [d, bits(UndefineFlags, flags)], o),
    suspend: async (d: Domain, o?: CallOptions) => call(p.domainSuspend, [d], o),
    resume: async (d: Domain, o?: CallOptions) => call(p.domainResume, [d], o),

    async state(d: Domain, o?: CallOptions): Promise<DomainState> {
      const s = await call(p.domainGetState, [d, 0], o)
      return domainState(s.state, s.reason)
    },
    /** of all domains, in one call */
    async states(o?: CallOptions): Promise<DomainWithState[]> {
      const all = await call(p.getAllDomainStats, [NO_DOMAINS, StatsGroups.state, StatsFlags.nowait], o)
      return all.map((s) => ({
        domain: s.domain,
        ...domainState(Number(s.values['state.state'] ?? -1), Number(s.values['state.reason'] ?? 0)),
      }))
    },
    /** of some or all domains, in one call; `nowait` is wise */
    stats: async (
      q: {
        domains?: readonly Domain[]
        groups?: FlagsOf<typeof StatsGroups>
        flags?: FlagsOf<typeof StatsFlags>
      } = {},
      o?: CallOptions,
    ) =>
      call(p.getAllDomainStats, [q.domains ?? NO_DOMAINS, bits(StatsGroups, q.groups), bits(StatsFlags, q.flags)], o),
    async info(d: Domain, o?: CallOptions): Promise<DomainInfo> {
      const info = await call(p.domainGetInfo, [d], o)
      return { ...info, state: domainState(info.state, 0).state }
    },
    /** with `inactive` what the next start will use, without what runs now */
    xml: async (d: Domain, flags?: FlagsOf<typeof XmlFlags>, o?: CallOptions) =>
      call(p.domainGetXml, [d, bits(XmlFlags, flags)], o),
    isActive: async (d: Domain, o?: CallOptions) => call(p.domainIsActive, [d], o),
    isPersistent: async (d: Domain, o?: CallOptions) => call(p.domainIsPersistent, [d], o),
    autostart: async (d: Domain, o?: CallOptions) => call(p.domainGetAutostart, [d], o),
    setAutostart: async (d: Domain, on: boolean, o?: CallOptions) => call(p.domainSetAutostart, [d, on], o),

    /** undefined when there is none */
    title: async (d: Domain, impact?: FlagsOf<typeof ImpactFlags>, o?: CallOptions) =>
      metadata(d, p.Metadata.title, null, bits(ImpactFlags, impact), o),
    description: async (d: Domain, impact?: FlagsOf<typeof ImpactFlags>, o?: CallOptions) =>
      metadata(d, p.Metadata.description, null, bits(ImpactFlags, impact), o),
    /** the element of the namespace `uri` below <metadata>, as XML */
    metadata: async (d: Domain, uri: string, impact?: FlagsOf<typeof ImpactFlags>, o?: CallOptions) =>
      metadata(d, p.Metadata.element, uri, bits(ImpactFlags, impact), o),
    /** null removes it */
    setTitle: async (d: Domain, text: string | null, impact?: FlagsOf<typeof ImpactFlags>, o?: CallOptions) =>
      call(p.domainSetMetadata, [d, p.Metadata.title, text, null, null, bits(ImpactFlags, impact)], o),
    setDescription: async (d: Domain, text: string | null, impact?: FlagsOf<typeof ImpactFlags>, o?: CallOptions) =>
      call(p.domainSetMetadata, [d, p.Metadata.description, text, null, null, bits(ImpactFlags, impact)], o),
    /** One element without a prefix of its own; libvirt puts it into the namespace `uri` under `prefix`. null removes it. */
    setMetadata: async (
      d: Domain,
      uri: string,
      value: { prefix: string; xml: string } | null,
      impact?: FlagsOf<typeof ImpactFlags>,
      o?: CallOptions,
    ) =>
      call(
        p.domainSetMetadata,
        [d, p.Metadata.element, value?.xml ?? null, value?.prefix ?? null, uri, bits(ImpactFlags, impact)],
        o,
      ),

    /** empty while the guest has none; error 55 when the domain does not run */
    addresses: async (d: Domain, source: keyof typeof SOURCES = 'lease', o?: CallOptions) =>
      call(p.domainInterfaceAddresses, [d, SOURCES[source], 0], o),

    /**
     * Opens the console of a domain that runs: the first one, or the device with this alias. A connection for it alone is wise. Error 9
     * (operation_failed) when somebody has it open, unless `force` ends that.
     */
    console: async (d: Domain, q: { device?: string; flags?: FlagsOf<typeof ConsoleFlags> } = {}, o?: CallOptions) =>
      stream(p.domainOpenConsole, [d, q.device ?? null, bits(ConsoleFlags, q.flags)], o),

    /** Writes the guest's memory to disk and stops it; the next start goes on from there. */
    managedSave: async (d: Domain, flags?: FlagsOf<typeof ManagedSaveFlags>, o?: CallOptions) =>
      call(p.domainManagedSave, [d, bits(ManagedSaveFlags, flags)], o),
    hasManagedSave: async (d: Domain, o?: CallOptions) => call(p.domainHasManagedSave, [d, 0], o),
    removeManagedSave: async (d: Domain, o?: CallOptions) => call(p.domainManagedSaveRemove, [d, 0], o),
  }
}
