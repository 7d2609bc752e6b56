import type { GrainMap } from '../../images/index.ts'

/**
 * What the worker threads of one disk share. They take grain tables (32 MiB of the disk each) in turn from a counter; all descriptors belong to
 * the process, so that threads use those that are open already.
 */
export interface GrainTask {
  /** zero-copy: grains become compressed clusters as they are; the others inflate them */
  mode: 'zero-copy' | 'qcow2' | 'raw'
  /** zero-copy: inflate every grain to check it */
  full: boolean
  /** the VMDK: byte x of it is byte `offset + x` of the descriptor; nothing at or behind `offset + size` is read */
  source: { fd: number; offset: number; size: number }
  output: {
    fd: number
    /** zero-copy without a clone: grains are copied, byte x of the VMDK to byte `shift + x`. With a clone they lie there already. */
    copy: boolean
    shift: number
    /** qcow2: the first data cluster */
    data_cluster: number
    /** zero-copy: a cluster for a last grain that is shorter than a cluster */
    tail_cluster: number
  }
  capacity_bytes: number
  map: Pick<GrainMap, 'directory' | 'before' | 'total' | 'zeroed_gte'>
  /** cluster of each L2 table, 0 for none; unused for raw */
  l2: Uint32Array<SharedArrayBuffer>
  /** zero-copy: refcounts of the clusters that hold grains, from cluster `refcounts_from` on */
  refcounts: Uint16Array<SharedArrayBuffer>
  refcounts_from: number
  /** qcow2: a bit for each data cluster that stays a hole, for its grain holds zeros alone */
  unused: Int32Array<SharedArrayBuffer>
  counters: Int32Array<SharedArrayBuffer>
}

/** Places in `counters`. */
export const NEXT_TABLE = 0
export const STOP = 1
export const GRAINS_DONE = 2
/** 1: the tail cluster is in use */
export const TAIL_USED = 3
/** inflating paths: grains that hold zeros alone and became holes */
export const ZERO_GRAINS = 4
export const COUNTERS = 5

/** How a worker ends. unusual: another path may read the disk; damaged: none may. */
export type WorkerEnd =
  | { end: 'done' }
  | { end: 'unusual'; message: string }
  | { end: 'damaged'; message: string }
  | { end: 'failed'; message: string; code: string | undefined }
