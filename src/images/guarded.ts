import { ImageError } from './errors.ts'
import type { VmdkSparseHeader } from './formats/index.ts'
import type { GraphBuilder } from './graph.ts'
import type { ImageWindow } from './window.ts'

export type SourceFormat = 'vmdk' | 'qcow2' | 'raw' | 'vhd' | 'vhdx' | 'vdi'

/** An image that passed the guard, and how qemu is to read it. */
export interface GuardedImage {
  format: SourceFormat
  /** e.g. streamOptimized, fixed, dynamic */
  subformat?: string
  /** bytes, from our own reading of the header */
  virtual_size: number
  /** the header of a VMDK that is one sparse file */
  sparse?: VmdkSparseHeader
  /** every part of a file that will be read, the image's own first */
  windows: ImageWindow[]
  /** builds the block graph's node; MAY be called more than once, each time with a builder of its own */
  node(b: GraphBuilder): Promise<Record<string, unknown>>
  warnings: string[]
  /** checks that all data lies in the file; called once the size is known to be sane */
  bounds(signal?: AbortSignal): Promise<void>
}

/** The last sector of a file may be short. */
export function pad512(b: Buffer): Buffer {
  return b.length % 512 === 0 ? b : Buffer.concat([b, Buffer.alloc(512 - (b.length % 512))])
}

export function refused(w: ImageWindow, code: string, what: string, hint: string): ImageError {
  return new ImageError(`The image ${JSON.stringify(w.label)} ${what}.`, { code, hint })
}
