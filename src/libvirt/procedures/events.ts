/** Numbers and structures: libvirt's src/remote/remote_protocol.x, written down as facts. Event ids: <libvirt/libvirt-domain.h>. */
import { agentReason, agentState, type LifecycleName, lifecycle } from '../names.ts'
import { nothing, procedure } from '../procedure.ts'
import { type Domain, readDomain, writeDomain } from '../structs.ts'
import type { XdrReader } from '../xdr.ts'

/** since libvirt 1.1.2; older daemons number events otherwise and are not asked for any */
export const eventRegister = procedure(
  316,
  'CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY',
  (w, event: number, domain: Domain | null) => void w.int(event).optional(domain, writeDomain),
  (r) => r.int(),
)
export const eventDeregister = procedure(
  317,
  'CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY',
  (w, callback: number) => void w.int(callback),
  nothing,
)

export type DomainEvent =
  | { kind: 'lifecycle'; domain: Domain; event: LifecycleName; detail: string }
  /** the guest was reset, from inside or outside; it runs on */
  | { kind: 'reboot'; domain: Domain }
  | { kind: 'device_removed' | 'device_added'; domain: Domain; alias: string }
  /** the guest agent's channel was opened or closed from inside */
  | { kind: 'agent'; domain: Domain; state: 'connected' | 'disconnected' | 'unknown'; reason: string }
  | { kind: 'metadata'; domain: Domain; type: 'description' | 'title' | 'element' | 'unknown'; uri: string | null }
export type EventKind = DomainEvent['kind']

/** A message that the daemon sends unasked, once one has registered for it. */
export interface EventMessage {
  kind: EventKind
  /** REMOTE_PROC_DOMAIN_EVENT_CALLBACK_… */
  number: number
  name: string
  /** VIR_DOMAIN_EVENT_ID_… */
  id: number
  read(r: XdrReader): { callback: number; event: DomainEvent }
}

const device =
  (kind: 'device_removed' | 'device_added') =>
  (r: XdrReader): ReturnType<EventMessage['read']> => ({
    callback: r.int(),
    event: { kind, domain: readDomain(r), alias: r.string() },
  })
const METADATA = ['description', 'title', 'element'] as const

export const events: readonly EventMessage[] = [
  {
    kind: 'lifecycle',
    number: 318,
    name: 'DOMAIN_EVENT_CALLBACK_LIFECYCLE',
    id: 0,
    read: (r) => ({
      callback: r.int(),
      event: { kind: 'lifecycle', domain: readDomain(r), ...lifecycle(r.int(), r.int()) },
    }),
  },
  {
    kind: 'reboot',
    number: 319,
    name: 'DOMAIN_EVENT_CALLBACK_REBOOT',
    id: 1,
    read: (r) => ({ callback: r.int(), event: { kind: 'reboot', domain: readDomain(r) } }),
  },
  {
    kind: 'device_removed',
    number: 333,
    name: 'DOMAIN_EVENT_CALLBACK_DEVICE_REMOVED',
    id: 15,
    read: device('device_removed'),
  },
  {
    kind: 'agent',
    number: 348,
    name: 'DOMAIN_EVENT_CALLBACK_AGENT_LIFECYCLE',
    id: 18,
    read: (r) => ({
      callback: r.int(),
      event: { kind: 'agent', domain: readDomain(r), state: agentState(r.int()), reason: agentReason(r.int()) },
    }),
  },
  {
    kind: 'device_added',
    number: 354,
    name: 'DOMAIN_EVENT_CALLBACK_DEVICE_ADDED',
    id: 19,
    read: device('device_added'),
  },
  {
    kind: 'metadata',
    number: 379,
    name: 'DOMAIN_EVENT_CALLBACK_METADATA_CHANGE',
    id: 23,
    read: (r) => {
      const callback = r.int()
      const domain = readDomain(r)
      const type = METADATA[r.int()] ?? 'unknown'
      return { callback, event: { kind: 'metadata', domain, type, uri: r.optionalString() } }
    },
  },
]
