import type { CopyRecord } from './artefacts.ts'
import type { SourceDisk } from './inspect.ts'
import type { OutputFormat } from './formats.ts'

/** A finished copy of one disk in one format. */
export interface DiskCopy {
  disk: SourceDisk
  format: OutputFormat
  record: CopyRecord
  adopted: boolean
  /** of the finished file, when asked for */
  sha256?: string
}

/** One image to be written. `final` is relative to the plan's `dir`. */
export interface Target {
  disk: SourceDisk
  format: OutputFormat
  file: string
  final: string
}
