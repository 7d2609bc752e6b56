/** VMs on libvirt: made, started, stopped, deleted, and what they are kept in order by (docs/vms.md). */
export { openVms, type Vms, vmsDir } from './service.ts'
export {
  type CloudInit,
  type NamedFile,
  type NicSpec,
  VmError,
  type VmHooks,
  type VmRecord,
  type VmResult,
  type VmSpec,
} from './types.ts'
