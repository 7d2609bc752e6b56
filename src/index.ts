/**
 * The library: submit, wait, cancel, status and their like, for programs (docs/library.md). Importing it does nothing:
 * no file is read, no process started, no timer set, until a function is called.
 *
 * ```ts
 * import { submit, wait } from 'vmspool'
 * const job = await submit('export/artifact-manifest.json', { instance: 'vsphere' })
 * const ended = await wait(job, { instance: 'vsphere', timeoutMs: 4 * 3600_000 })
 * ```
 */
export type { AgentInfo, InstanceInfo } from './client/agents.ts'
export {
  cancel,
  control,
  convertManifest,
  defaultInstance,
  fetchResult,
  list,
  logs,
  result,
  retry,
  run,
  status,
  stop,
  submit,
  vm,
  vms,
  wait,
} from './client/library.ts'
export type { CommandOptions } from './client/library.ts'
export type { ListFilter } from './client/status.ts'
export type { ControlCommand, ControlReply } from './client/control.ts'
export { ClientError, ManifestError } from './client/errors.ts'
export type { LogOptions } from './client/logs.ts'
export type { SpoolPlace } from './client/place.ts'
export type { Submission } from './client/submit.ts'
export type { VmAction, VmFields } from './client/vm-manifest.ts'
export type { VmQuery, VmView } from './client/vms.ts'
export type { WaitOptions } from './client/wait.ts'
export type { Diagnostic, Manifest } from './manifest/index.ts'
export type { JobStatus } from './spool/index.ts'
