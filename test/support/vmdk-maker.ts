/**
 * streamOptimized VMDKs as no tool here writes them: grain directory in the footer, zero grains, odd capacities, any order, and faults.
 * Source of the format: VMware "Virtual Disk Format 5.0".
 */
import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs'
import { deflateSync } from 'node:zlib'

const SECTOR = 512
const PER_TABLE = 512
const AT_END = 0xffffffffffffffffn
const MARKER = { table: 1, directory: 2, footer: 3 }
const FLAGS = { newlines: 1, redundant: 2, zero_grains: 4, compressed: 0x10000, markers: 0x20000 }

/** Content of one grain: compressed as it is (shorter or longer than a grain too), nothing at all, or "zeros" without data. */
export type Grain = Buffer | 'hole' | 'zero'

export interface VmdkShape {
  /** default: as many whole grains as there are */
  capacity_sectors?: number
  /** 1 to 3, default 3 */
  version?: number
  /** grain directory and tables behind the grains, found through the footer; default: in front of them */
  footer?: boolean
  /** head only: a second set of tables, which the header calls the redundant one */
  redundant?: boolean
  /** sectors in front of the first grain; default 128, or more when the tables need it */
  overhead_sectors?: number
  /** power of two; default 128 */
  grain_sectors?: number
  /** zlib level, default 6 */
  level?: number
  /** indices of grains in the order in which they are written; default ascending */
  order?: readonly number[]
  /** sectors of nothing (a hole, in a file) in front of a grain, by its index */
  gaps?: Readonly<Record<number, number>>
  /** the embedded descriptor's text; '' leaves it out, which qemu does not open */
  descriptor?: string
  /** changes a grain on its way into the file: another LBA, a damaged Adler-32, a stream without zlib header, a wrong size */
  meddle?(index: number, grain: { lba: bigint; size: number; stream: Buffer }): void
  /** changes the grain tables (one entry a grain: its sector, 0 hole, 1 zeros), after all were placed */
  entries?(sectors: Uint32Array): void
  /** changes the grain directory (one entry a table: its sector) */
  directory?(sectors: Uint32Array): void
  /** changes header (and footer) */
  header?(h: Buffer): void
}

type Sink = (bytes: Buffer, at: number) => void

/** A whole file in memory. */
export function makeStreamVmdk(o: VmdkShape & { grains: readonly Grain[] }): Buffer {
  const pieces: { bytes: Buffer; at: number }[] = []
  const size = build({ ...o, count: o.grains.length, grain: (n) => o.grains[n]! }, (bytes, at) =>
    pieces.push({ bytes: Buffer.from(bytes), at }),
  )
  const out = Buffer.alloc(size)
  for (const p of pieces) p.bytes.copy(out, p.at)
  return out
}

/** Writes a file grain by grain, so that it may be larger than memory. Gives its size in bytes. */
export function writeStreamVmdk(path: string, o: VmdkShape & { count: number; grain(index: number): Grain }): number {
  const fd = openSync(path, 'w')
  try {
    const size = build(o, (bytes, at) => writeSync(fd, bytes, 0, bytes.length, at))
    ftruncateSync(fd, size)
    return size
  } finally {
    closeSync(fd)
  }
}

/** The disk that a reader must see: `capacity_sectors` of the grains' content. */
export function contentOf(o: VmdkShape & { grains: readonly Grain[] }): Buffer {
  const grain = (o.grain_sectors ?? 128) * SECTOR
  const out = Buffer.alloc((o.capacity_sectors ?? (o.grains.length * grain) / SECTOR) * SECTOR)
  for (const [n, g] of o.grains.entries()) if (Buffer.isBuffer(g)) g.copy(out, n * grain, 0, Math.min(g.length, grain))
  return out
}

function build(o: VmdkShape & { count: number; grain(index: number): Grain }, write: Sink): number {
  const grainSectors = o.grain_sectors ?? 128
  const capacity = o.capacity_sectors ?? o.count * grainSectors
  const tables = Math.ceil(Math.ceil(capacity / grainSectors) / PER_TABLE)
  const directorySectors = Math.ceil((tables * 4) / SECTOR)
  const tablesSectors = directorySectors + tables * 4
  const descriptor = o.descriptor ?? describe(capacity)
  const descriptorSectors = descriptor === '' ? 0 : Math.max(20, Math.ceil(descriptor.length / SECTOR))
  const head = 1 + descriptorSectors
  const sets = o.footer ? 0 : o.redundant ? 2 : 1
  const overhead = Math.max(o.overhead_sectors ?? 128, head + sets * tablesSectors)

  const entries = new Uint32Array(tables * PER_TABLE)
  let at = placeGrains(o, grainSectors, entries, overhead, write)
  o.entries?.(entries)

  const putTables = (directoryAt: number, firstTable: number, stride: number): void => {
    const directory = new Uint32Array(directorySectors * (SECTOR / 4))
    for (let t = 0; t < tables; t++) directory[t] = firstTable + t * stride
    for (let t = 0; t < tables; t++) {
      const table = entries.subarray(t * PER_TABLE, (t + 1) * PER_TABLE)
      // an empty one stays a hole in the file
      if (table.some((e) => e !== 0)) write(littleEndian(table), directory[t]! * SECTOR)
    }
    o.directory?.(directory)
    write(littleEndian(directory), directoryAt * SECTOR)
  }
  const header = sparseHeader({ o, capacity, grainSectors, descriptorSectors, overhead })
  if (o.footer) {
    for (let t = 0; t < tables; t++) write(marker(4, MARKER.table), (at + t * 5) * SECTOR)
    const directoryAt = at + tables * 5 + 1
    write(marker(directorySectors, MARKER.directory), (directoryAt - 1) * SECTOR)
    putTables(directoryAt, at + 1, 5)
    at = directoryAt + directorySectors
    write(marker(1, MARKER.footer), at * SECTOR)
    header.writeBigUInt64LE(BigInt(directoryAt), 56)
    o.header?.(header)
    write(header, (at + 1) * SECTOR)
    write(Buffer.alloc(SECTOR), (at + 2) * SECTOR)
    at += 3
    header.writeBigUInt64LE(AT_END, 56)
  } else {
    for (let s = 0; s < sets; s++) {
      const directoryAt = head + s * tablesSectors
      header.writeBigUInt64LE(BigInt(directoryAt), s === sets - 1 ? 56 : 48)
      putTables(directoryAt, directoryAt + directorySectors, 4)
    }
    write(Buffer.alloc(SECTOR), at * SECTOR) // the end-of-stream marker
    at += 1
  }
  o.header?.(header)
  write(header, 0)
  if (descriptor !== '') write(Buffer.from(descriptor, 'latin1'), SECTOR)
  return at * SECTOR
}

/** Gives the sector behind the last grain. */
function placeGrains(
  o: VmdkShape & { count: number; grain(index: number): Grain },
  grainSectors: number,
  entries: Uint32Array,
  start: number,
  write: Sink,
): number {
  let at = start
  const total = o.order?.length ?? o.count
  for (let i = 0; i < total; i++) {
    const index = o.order ? o.order[i]! : i
    const content = o.grain(index)
    if (content === 'hole') continue
    if (content === 'zero') {
      entries[index] = 1
      continue
    }
    at += o.gaps?.[index] ?? 0
    const stream = deflateSync(content, { level: o.level ?? 6 })
    const grain = { lba: BigInt(index) * BigInt(grainSectors), size: stream.length, stream }
    o.meddle?.(index, grain)
    const bytes = Buffer.alloc(Math.ceil((12 + grain.stream.length) / SECTOR) * SECTOR)
    bytes.writeBigUInt64LE(grain.lba, 0)
    bytes.writeUInt32LE(grain.size, 8)
    grain.stream.copy(bytes, 12)
    write(bytes, at * SECTOR)
    entries[index] = at
    at += bytes.length / SECTOR
  }
  return at
}

function sparseHeader(p: {
  o: VmdkShape
  capacity: number
  grainSectors: number
  descriptorSectors: number
  overhead: number
}): Buffer {
  const h = Buffer.alloc(SECTOR)
  h.write('KDMV', 0, 'latin1')
  h.writeUInt32LE(p.o.version ?? 3, 4)
  const flags = FLAGS.newlines | FLAGS.zero_grains | FLAGS.compressed | FLAGS.markers
  h.writeUInt32LE(p.o.redundant ? flags | FLAGS.redundant : flags, 8)
  h.writeBigUInt64LE(BigInt(p.capacity), 12)
  h.writeBigUInt64LE(BigInt(p.grainSectors), 20)
  if (p.descriptorSectors > 0) {
    h.writeBigUInt64LE(1n, 28)
    h.writeBigUInt64LE(BigInt(p.descriptorSectors), 36)
  }
  h.writeUInt32LE(PER_TABLE, 44)
  h.writeBigUInt64LE(BigInt(p.overhead), 64)
  h.write('\n \r\n', 73, 'latin1')
  h.writeUInt16LE(1, 77)
  return h
}

function describe(capacity: number): string {
  return `# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="streamOptimized"\n# Extent description\nRW ${capacity} SPARSE "disk.vmdk"\n#DDB\nddb.adapterType = "lsilogic"\nddb.virtualHWVersion = "14"\n`
}

function marker(sectors: number, type: number): Buffer {
  const m = Buffer.alloc(SECTOR)
  m.writeBigUInt64LE(BigInt(sectors), 0)
  m.writeUInt32LE(type, 12)
  return m
}

function littleEndian(numbers: Uint32Array): Buffer {
  const b = Buffer.alloc(numbers.length * 4)
  for (let i = 0; i < numbers.length; i++) b.writeUInt32LE(numbers[i]!, i * 4)
  return b
}
