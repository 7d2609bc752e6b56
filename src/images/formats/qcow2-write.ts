/*
 * Writing qcow2 version 3 with clusters of 64 KiB and refcounts of 16 bits. Source: docs/interop/qcow2.txt of QEMU.
 * Everything is big endian. Offsets are bytes, counts clusters unless they say otherwise.
 */

export const CLUSTER = 65536
const CLUSTER_BITS = 16
/** clusters that one L2 table describes, and that one refcount block counts */
export const L2_ENTRIES = CLUSTER / 8
export const REFCOUNTS_PER_BLOCK = CLUSTER / 2
/** bit 63: the cluster's refcount is exactly one; kept as the upper 32 bits of an entry */
const COPIED_HIGH = 0x80000000
const COMPRESSED_HIGH = 0x40000000

export interface Qcow2Shape {
  /** bytes */
  virtual_size: number
  /** L1 entries */
  l1_size: number
  l1_cluster: number
  refcount_table_cluster: number
  refcount_table_clusters: number
}

/** The header, padded to a whole cluster, so that nothing of what lay there before stays behind it. */
export function qcow2Header(o: Qcow2Shape): Buffer {
  const h = Buffer.alloc(CLUSTER)
  h.write('QFI\xfb', 0, 'latin1')
  h.writeUInt32BE(3, 4)
  h.writeUInt32BE(CLUSTER_BITS, 20)
  h.writeBigUInt64BE(BigInt(o.virtual_size), 24)
  h.writeUInt32BE(o.l1_size, 36)
  h.writeBigUInt64BE(BigInt(o.l1_cluster) * BigInt(CLUSTER), 40)
  h.writeBigUInt64BE(BigInt(o.refcount_table_cluster) * BigInt(CLUSTER), 48)
  h.writeUInt32BE(o.refcount_table_clusters, 56)
  h.writeUInt32BE(4, 96) // refcount_order: 2^4 bits
  h.writeUInt32BE(104, 100) // header length
  return h
}

/** An L1 or L2 entry for a cluster of its own. `offset` is a multiple of 64 KiB. */
export function putPlainEntry(table: Buffer, index: number, offset: number): void {
  table.writeUInt32BE((COPIED_HIGH | Math.floor(offset / 2 ** 32)) >>> 0, index * 8)
  table.writeUInt32BE(offset % 2 ** 32, index * 8 + 4)
}

/** Where a deflate stream lies in the file and how many sectors of 512 bytes it touches after the first. */
export interface CompressedPlace {
  /** any byte offset below 2^53 */
  offset: number
  /** 0 to 255 */
  more_sectors: number
}

/** @returns undefined when the stream touches more sectors than an entry can say */
export function compressedPlace(offset: number, length: number): CompressedPlace | undefined {
  const more = Math.floor((offset + length - 1) / 512) - Math.floor(offset / 512)
  return more > 255 ? undefined : { offset, more_sectors: more }
}

/** An L2 entry for a compressed cluster: bit 62, bits 54 to 61 the sectors, bits 0 to 53 the offset. */
export function putCompressedEntry(table: Buffer, index: number, p: CompressedPlace): void {
  table.writeUInt32BE((COMPRESSED_HIGH | (p.more_sectors << 22) | Math.floor(p.offset / 2 ** 32)) >>> 0, index * 8)
  table.writeUInt32BE(p.offset % 2 ** 32, index * 8 + 4)
}

/** First and last host cluster that a compressed cluster counts in: whole sectors are what is read. */
export function touchedClusters(p: CompressedPlace): [first: number, last: number] {
  const end = (Math.floor(p.offset / 512) + p.more_sectors + 1) * 512 - 1
  return [Math.floor(p.offset / CLUSTER), Math.floor(end / CLUSTER)]
}

/** How many clusters refcount blocks and table take in a file whose other clusters number `others`. */
export function refcountClusters(others: number): { blocks: number; table: number } {
  let blocks = 0
  let table = 0
  for (;;) {
    const total = others + blocks + table
    const need = Math.ceil(total / REFCOUNTS_PER_BLOCK)
    const needTable = Math.max(1, Math.ceil((need * 8) / CLUSTER))
    if (need === blocks && needTable === table) return { blocks, table }
    blocks = need
    table = needTable
  }
}
