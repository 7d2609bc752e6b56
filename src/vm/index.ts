/** VMs on libvirt: made, started, stopped, deleted, and what they are kept in order by (docs/vms.md). */
export type { Drift, Orphan } from './drift.ts'
export { noteAddresses } from './leased.ts'
export type { LinkHealth, VmLink } from './link.ts'
export { orphanMemory } from './orphans.ts'
export { reconcile, reconcileOne, type ReconcileOptions } from './reconcile.ts'
export { type VmReport, type VmUsage, writeVmReport } from './report.ts'
export { diskOwner } from './disk-owner.ts'
export type { DefineSpec } from './define-types.ts'
export { openVms, type Vms, vmsDir } from './service.ts'
export {
  type CloudInit,
  type NamedFile,
  type NicSpec,
  VmError,
  type VmHooks,
  type VmPhase,
  type VmRecord,
  type VmResult,
  type VmSpec,
} from './types.ts'
export { usageOf } from './usage.ts'
