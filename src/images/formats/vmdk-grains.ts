import { type ByteSource, readExactly } from './source.ts'
import type { VmdkSparseHeader } from './vmdk.ts'
import { eachTable } from './vmdk-tables.ts'

/*
 * The grains of a streamOptimized VMDK. Sources: VMware "Virtual Disk Format 5.0" (compressed grains, markers) and files written by qemu and
 * open-vmdk. A grain is u64 LBA (sectors), u32 length, then a zlib stream (RFC 1950), padded to a sector.
 */

const SECTOR = 512
/** bytes of LBA and length before a grain's stream */
export const GRAIN_MARKER = 12
/** bytes of the zlib header (CMF, FLG) and of the Adler-32 around a grain's deflate body */
export const ZLIB_HEADER = 2
export const ZLIB_TRAILER = 4
export const GRAIN = 65536
export const GTES = 512
/** A longer stream is refused by qemu too: twice a grain. */
const MAX_STREAM = 2 * GRAIN
const FLAG_ZEROED_GTE = 1 << 2
const FLAG_COMPRESSED = 1 << 16
const FLAG_MARKERS = 1 << 17

/** Why the grains of this disk cannot be taken as they are; undefined: they can. Completes "…, because". */
export function grainsProblem(h: VmdkSparseHeader): string | undefined {
  if (!h.compressed || (h.flags & FLAG_COMPRESSED) === 0) return 'its grains are not compressed'
  if (h.compress_algorithm !== 1) return `its grains use the compression ${h.compress_algorithm}, not deflate`
  if ((h.flags & FLAG_MARKERS) === 0) return 'its grains have no markers'
  if (h.grain_bytes !== GRAIN) return `its grains have ${h.grain_bytes} bytes, not ${GRAIN}`
  if (h.gtes_per_gt !== GTES) return `its grain tables have ${h.gtes_per_gt} entries, not ${GTES}`
  return undefined
}

export interface GrainMap {
  /** sector of each grain table in the file; 0: 32 MiB without data */
  directory: Uint32Array<SharedArrayBuffer>
  /** how many grains with data come before each table */
  before: Uint32Array<SharedArrayBuffer>
  /** grains with data */
  total: number
  /** lowest byte offset of a grain in the file, and of the first byte behind the highest grain's marker; 0 without grains */
  first: number
  last: number
  /** entry 1 means "reads as zeros" */
  zeroed_gte: boolean
}

/**
 * Reads the directory and counts the grains of each table. Memory: sixteen bytes for every 32 MiB of the disk.
 * @throws {FormatError} truncated
 */
export async function mapGrains(s: ByteSource, h: VmdkSparseHeader, signal?: AbortSignal): Promise<GrainMap> {
  const tables = Math.ceil(h.capacity_bytes / (GRAIN * GTES))
  const directory = new Uint32Array(new SharedArrayBuffer(tables * 4))
  const before = new Uint32Array(new SharedArrayBuffer(tables * 4))
  const bytes = await readExactly(s, h.gd_offset!, tables * 4, 'its grain directory')
  const zeroed = (h.flags & FLAG_ZEROED_GTE) !== 0
  const grains = Math.ceil(h.capacity_bytes / GRAIN)
  let total = 0
  let first = Number.POSITIVE_INFINITY
  let last = 0
  const counts = new Uint32Array(tables)
  await eachTable(s, bytes, 0, GTES, signal, (t, table) => {
    const n = Math.min(GTES, grains - t * GTES)
    for (let g = 0; g < n; g++) {
      const at = table.readUInt32LE(g * 4)
      if (at === 0 || (at === 1 && zeroed)) continue
      counts[t]!++
      if (at < first) first = at
      if (at > last) last = at
    }
  })
  for (let t = 0; t < tables; t++) {
    before[t] = total
    total += counts[t]!
    // a table of holes alone need not be read again
    if (counts[t]! > 0) directory[t] = bytes.readUInt32LE(t * 4)
  }
  return {
    directory,
    before,
    total,
    first: total === 0 ? 0 : first * SECTOR,
    last: total === 0 ? 0 : last * SECTOR + GRAIN_MARKER,
    zeroed_gte: zeroed,
  }
}

/**
 * What is wrong with a marker, or undefined. `bytes` holds the marker and the first two bytes of the stream at `at`.
 * @param lba sectors
 */
export function markerProblem(bytes: Buffer, at: number, lba: number): string | undefined {
  const found = bytes.readUInt32LE(at + 4) * 2 ** 32 + bytes.readUInt32LE(at)
  if (found !== lba) return `the grain for sector ${lba} is marked as one for sector ${found}`
  const size = bytes.readUInt32LE(at + 8)
  if (size <= ZLIB_HEADER + ZLIB_TRAILER || size > MAX_STREAM)
    return `the grain for sector ${lba} has a stream of ${size} bytes`
  const cmf = bytes[at + GRAIN_MARKER]!
  const flg = bytes[at + GRAIN_MARKER + 1]!
  // RFC 1950: method 8, a window of at most 32 KiB, no preset dictionary, and a check of both bytes
  if ((cmf & 15) !== 8 || cmf >> 4 > 7 || (flg & 32) !== 0 || (cmf * 256 + flg) % 31 !== 0)
    return `the grain for sector ${lba} does not begin with a zlib header`
  return undefined
}
