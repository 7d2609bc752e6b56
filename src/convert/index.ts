/** Steps that turn checked sources into finished disks. Knows no spool: it gets a plan, an abort signal and callbacks. */
export { finishedWork, syncFile } from './artefacts.ts'
export type { FixPlan, GuestConfiguration, GuestToolSettings } from './fix/types.ts'
export { fixingPossible } from './fix/index.ts'
export { usedByVm } from './ready.ts'
export { convertDisks } from './run.ts'
export type {
  ConvertPlan,
  ConvertReport,
  DefineReport,
  CopyPath,
  OutputFormat,
  StageWarning,
  Step,
} from './types.ts'
export type { VmWords } from '../domain/index.ts'
