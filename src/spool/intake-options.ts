/** What intake is told by its agent, and what it finds out about a bare disk. */
import type { ParseOutcome } from '../manifest/index.ts'

export interface IntakeSettings {
  /** largest manifest, in bytes */
  max_manifest_bytes: number
  /** a YAML drop must be unchanged for this long: a prefix of YAML can parse */
  yaml_quiet_ms: number
  /** a JSON drop that ends too early is rejected after this long without a change */
  incomplete_after_ms: number
  /** how long the raw drop is watched for a second write after it was accepted */
  raw_keep_ms: number
  /** a bare disk must be unchanged for this long */
  file_stable_ms: number
  bare_disks: boolean
  on_in_use: 'reject' | 'supersede'
}

export interface DropInspection {
  source_format: string
  /** other files of the queue that belong to it (disks of an OVF, extents of a descriptor) */
  parts: string[]
  /** why it does not look complete yet */
  incomplete?: string
}

export interface IntakeOptions {
  parse(bytes: Uint8Array, fileName: string): ParseOutcome
  settings: IntakeSettings
  /** kinds that this agent can run */
  knownKinds: ReadonlySet<string>
  /** looks at a bare disk in the queue without trusting it */
  inspectDrop?(path: string): Promise<DropInspection>
  /** who uses a published disk now, in words; undefined when nobody does */
  inUse?(path: string): Promise<string | undefined>
  /** most drops taken in one round; the rest waits for the next */
  batch?: number
}

/** A file name that leaves room for what we put in front (NAME_MAX is 255 bytes). */
export function clip(name: string): string {
  if (Buffer.byteLength(name) <= 200) return name
  const dot = name.lastIndexOf('.')
  const ext = dot > 0 ? name.slice(dot).slice(0, 10) : ''
  let stem = name.slice(0, dot > 0 ? dot : undefined)
  while (Buffer.byteLength(stem + ext) > 200) stem = stem.slice(0, -1)
  return stem + ext
}
