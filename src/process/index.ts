export { endGroup, ownMembers } from './group.ts'
export {
  bootId,
  identify,
  isAlive,
  isLocal,
  type ProcessIdentity,
  pidNamespace,
  processStat,
} from './identity.ts'
export { type LimitedBy, type Limits, limitedBy, scopeManager } from './limits.ts'
export { runGroup, SpawnError } from './run.ts'
export { startFailure, startShim } from './shim.ts'
export type { ShimSpec } from './shim-orders.ts'
export {
  fenceShim,
  type ShimExit,
  type ShimProcess,
  type ShimState,
  shimState,
  stopShim,
  waitShim,
} from './shim-state.ts'
