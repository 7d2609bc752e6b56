/** A client for libvirt's own protocol; see README.md. This folder imports nothing of the project and no package. */
export { type ConnectOptions, type Connection, connect } from './connect.ts'
export type { DomainInfo, DomainInterface, DomainStats, DomainWithState, InterfaceAddress } from './domains.ts'
export {
  type ConnectionEnd,
  ConnectionError,
  DeadlineError,
  ErrorCode,
  errorCodeName,
  EventsLostError,
  isLibvirtError,
  LibvirtError,
} from './errors.ts'
export type { DomainCapabilitiesQuery, NodeInfo } from './host.ts'
export { keepConnected, type KeepOptions, type Link, type LinkState, type Session } from './keep.ts'
export type { DomainState, DomainStateName, LifecycleName, PoolStateName, VolumeTypeName } from './names.ts'
export type { DhcpLease } from './networks.ts'
export type { CallOptions } from './procedure.ts'
export type { DomainEvent, EventKind } from './procedures/events.ts'
export type { PoolInfo, VolumeInfo } from './storage.ts'
export type { ByteStream } from './streams.ts'
export type { Domain, Network, ParameterValue, Pool, Volume } from './structs.ts'
export type { EventSubscription, SubscribeOptions } from './subscriptions.ts'
