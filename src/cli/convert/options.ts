/** What `vmspool convert` is asked for, and how its result is told: the same on both ways. */
import { out } from '../output.ts'
import type { SpoolOptions } from '../spool-options.ts'
import type { WaitFlags } from '../waiting.ts'

export interface ConvertOptions extends SpoolOptions, WaitFlags {
  output: string
  name?: string
  format?: string
  compress?: boolean
  path?: string
  strict?: boolean
  grains?: string
  compare?: string
  checksum?: boolean
  direct?: boolean
  overwrite?: boolean
  dryRun?: boolean
}

export function printPaths(paths: readonly string[]): void {
  for (const path of paths) out(path)
}
