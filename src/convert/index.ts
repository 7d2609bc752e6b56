/** Steps that turn checked sources into finished disks. Knows no spool: it gets a plan, an abort signal and callbacks. */
export { syncFile } from './artefacts.ts'
export { convertDisks } from './run.ts'
export type {
  Artifact,
  ConvertHooks,
  ConvertPlan,
  ConvertProgress,
  ConvertReport,
  DiskReport,
  OutputFormat,
  PlannedDisk,
  StageReport,
  StageWarning,
} from './types.ts'
