/*
 * Numbers of states, reasons and events as words. Source: the enums of <libvirt/libvirt-domain.h> and -storage.h, in their order.
 * A number that a newer libvirt has added is shown as itself.
 */

const STATES = ['none', 'running', 'blocked', 'paused', 'shutdown', 'shutoff', 'crashed', 'pmsuspended'] as const
export type DomainStateName = (typeof STATES)[number] | 'unknown'

const RUNNING = [
  ...['unknown', 'booted', 'migrated', 'restored', 'from_snapshot', 'unpaused', 'migration_canceled'],
  ...['save_canceled', 'wakeup', 'crashed', 'postcopy', 'postcopy_failed'],
]
const PAUSED = [
  ...['unknown', 'user', 'migration', 'save', 'dump', 'ioerror', 'watchdog', 'from_snapshot', 'shutting_down'],
  ...['snapshot', 'crashed', 'starting_up', 'postcopy', 'postcopy_failed'],
]
const SHUTOFF = [
  ...['unknown', 'shutdown', 'destroyed', 'crashed', 'migrated', 'saved', 'failed', 'from_snapshot', 'daemon'],
]
const REASONS: Readonly<Record<string, readonly string[]>> = {
  running: RUNNING,
  paused: PAUSED,
  shutdown: ['unknown', 'user'],
  shutoff: SHUTOFF,
  crashed: ['unknown', 'panicked'],
}

const word = (words: readonly string[] | undefined, n: number): string => words?.[n] ?? String(n)

export interface DomainState {
  /** `paused` with reason `starting_up` is not yet running; `shutoff` includes a saved one */
  state: DomainStateName
  /** e.g. `booted`, `user`, `destroyed`, `crashed`, `failed` (did not start) */
  reason: string
}

export function domainState(state: number, reason: number): DomainState {
  const name = STATES[state] ?? 'unknown'
  return { state: name, reason: reason === 0 ? 'unknown' : word(REASONS[name], reason) }
}

const LIFECYCLE = [
  ...(['defined', 'undefined', 'started', 'suspended', 'resumed', 'stopped', 'shutdown'] as const),
  ...(['pmsuspended', 'crashed'] as const),
]
export type LifecycleName = (typeof LIFECYCLE)[number] | 'unknown'

const DETAILS: Readonly<Record<string, readonly string[]>> = {
  defined: ['added', 'updated', 'renamed', 'from_snapshot'],
  undefined: ['removed', 'renamed'],
  started: ['booted', 'migrated', 'restored', 'from_snapshot', 'wakeup'],
  suspended: [
    ...['paused', 'migrated', 'ioerror', 'watchdog', 'restored', 'from_snapshot', 'api_error', 'postcopy'],
    'postcopy_failed',
  ],
  resumed: ['unpaused', 'migrated', 'from_snapshot', 'postcopy', 'postcopy_failed'],
  stopped: ['shutdown', 'destroyed', 'crashed', 'migrated', 'saved', 'failed', 'from_snapshot'],
  shutdown: ['finished', 'guest', 'host'],
  pmsuspended: ['memory', 'disk'],
  crashed: ['panicked', 'crashloaded'],
}

export function lifecycle(event: number, detail: number): { event: LifecycleName; detail: string } {
  const name = LIFECYCLE[event] ?? 'unknown'
  return { event: name, detail: word(DETAILS[name], detail) }
}

const POOL_STATES = ['inactive', 'building', 'running', 'degraded', 'inaccessible'] as const
export type PoolStateName = (typeof POOL_STATES)[number] | 'unknown'
export const poolState = (n: number): PoolStateName => POOL_STATES[n] ?? 'unknown'

const VOLUME_TYPES = ['file', 'block', 'dir', 'network', 'netdir', 'ploop'] as const
export type VolumeTypeName = (typeof VOLUME_TYPES)[number] | 'unknown'
export const volumeType = (n: number): VolumeTypeName => VOLUME_TYPES[n] ?? 'unknown'

export const agentState = (n: number): 'connected' | 'disconnected' | 'unknown' =>
  n === 1 ? 'connected' : n === 2 ? 'disconnected' : 'unknown'
export const agentReason = (n: number): string => word(['unknown', 'domain_started', 'channel'], n)
