import { type ByteSource, FormatError, readExactly, size64 } from './source.ts'
import { MAX_DESCRIPTOR_BYTES, parseVmdkDescriptor, type VmdkDescriptor } from './vmdk-descriptor.ts'

/** Source: VMware "Virtual Disk Format 5.0" and reference measurements of qemu and open-vmdk files. */
export interface VmdkSparseHeader {
  version: number
  flags: number
  /** disk size in bytes; 0 means that only the embedded descriptor counts */
  capacity_bytes: number
  grain_bytes: number
  gtes_per_gt: number
  /** byte offset of the grain directory; undefined: the footer holds it */
  gd_offset?: number
  overhead_bytes: number
  compressed: boolean
  /** 0: none, 1: deflate */
  compress_algorithm: number
  /** where the grain directory comes from */
  gd_from: 'header' | 'footer'
  descriptor?: VmdkDescriptor
  /** everything from which qemu takes the name of another file lies in the first so many bytes */
  name_area_bytes: number
}

export type VmdkFile = { kind: 'sparse'; header: VmdkSparseHeader } | { kind: 'descriptor'; descriptor: VmdkDescriptor }

const VMDK_MAGIC = 'KDMV'
/** VMFS sparse (COWD) and SE sparse snapshots */
const DELTA_MAGICS: ReadonlyMap<string, string> = new Map([['COWD', 'VMFSSPARSE']])
const SECTOR = 512
const GD_AT_END = 0xffffffffffffffffn
/** qemu looks for a parent in the 20 sectors from sector 1 on, whatever the header says */
const QEMU_DESC_AT = 0x200
const QEMU_DESC_SIZE = 20 * SECTOR

/** Tells a sparse file from a text descriptor and parses it. @throws {FormatError} */
export async function parseVmdk(source: ByteSource): Promise<VmdkFile> {
  const magic = (await source.read(0, 4)).toString('latin1')
  const delta = DELTA_MAGICS.get(magic)
  if (delta)
    throw new FormatError(
      'unsupported',
      `The file is a ${delta} extent, a snapshot's changes and not a whole disk. Consolidate the VM's snapshots and export again.`,
    )
  if (magic === VMDK_MAGIC) return { kind: 'sparse', header: await parseSparse(source) }
  const start = (await source.read(0, 2048)).toString('latin1')
  if (!/^\s*#\s*disk\s*descriptor\s*file/i.test(start)) {
    throw new FormatError('not-vmdk', 'The file has neither a VMDK signature nor a VMDK descriptor.')
  }
  if (source.size > MAX_DESCRIPTOR_BYTES) {
    throw new FormatError(
      'bad-descriptor',
      `The VMDK descriptor has ${source.size} bytes; at most ${MAX_DESCRIPTOR_BYTES} are read.`,
    )
  }
  const text = (await source.read(0, MAX_DESCRIPTOR_BYTES)).toString('utf8')
  return { kind: 'descriptor', descriptor: parseVmdkDescriptor(text) }
}

async function parseSparse(source: ByteSource): Promise<VmdkSparseHeader> {
  const head = await readExactly(source, 0, SECTOR, 'its VMDK header')
  const version = head.readUInt32LE(4)
  if (version < 1 || version > 3)
    throw new FormatError('unsupported', `The VMDK version is ${version}; versions 1 to 3 are supported.`)
  const capacity = sectors(head.readBigUInt64LE(12), 'capacity')
  const descriptorAt = sectors(head.readBigUInt64LE(28), 'descriptor offset')
  const descriptorSize = sectors(head.readBigUInt64LE(36), 'descriptor size')
  if (descriptorSize > MAX_DESCRIPTOR_BYTES || descriptorAt > MAX_DESCRIPTOR_BYTES) {
    throw new FormatError(
      'bad-header',
      `The VMDK header puts a descriptor of ${descriptorSize} bytes at ${descriptorAt}; both must be under ${MAX_DESCRIPTOR_BYTES}.`,
    )
  }
  const nameArea = Math.max(QEMU_DESC_AT + QEMU_DESC_SIZE, descriptorAt + descriptorSize)
  const descriptor =
    descriptorAt > 0 && descriptorSize > 0 ? await embedded(source, descriptorAt, descriptorSize) : undefined
  if (descriptor === undefined || descriptor.parent_hint === undefined) await refuseHiddenParent(source)
  const gd = head.readBigUInt64LE(56)
  const header: VmdkSparseHeader = {
    version,
    flags: head.readUInt32LE(8),
    capacity_bytes: capacity,
    grain_bytes: sectors(head.readBigUInt64LE(20), 'grain size'),
    gtes_per_gt: head.readUInt32LE(44),
    gd_from: 'header',
    overhead_bytes: sectors(head.readBigUInt64LE(64), 'overhead'),
    compressed: head.readUInt16LE(77) !== 0,
    compress_algorithm: head.readUInt16LE(77),
    name_area_bytes: nameArea,
  }
  if (gd !== GD_AT_END) header.gd_offset = sectors(gd, 'grain directory offset')
  if (descriptor) header.descriptor = descriptor
  if (capacity === 0) return header // the guard refuses or follows it; nothing else in the header counts
  checkGrains(header)
  if (gd === GD_AT_END) await readFooter(source, header)
  else if (header.gd_offset === 0 || header.gd_offset! >= source.size) {
    throw new FormatError(
      'truncated',
      `The VMDK's grain directory is at byte ${header.gd_offset}, but the file has ${source.size} bytes.`,
    )
  }
  return header
}

function checkGrains(h: VmdkSparseHeader): void {
  const grain = h.grain_bytes
  if (grain < 4096 || grain > 64 * 1024 * 1024 || (grain & (grain - 1)) !== 0) {
    throw new FormatError(
      'bad-header',
      `The VMDK's grain size is ${grain} bytes; a power of two from 4 KiB to 64 MiB is allowed.`,
    )
  }
  if (h.gtes_per_gt !== 512) {
    throw new FormatError(
      'unsupported',
      `The VMDK has ${h.gtes_per_gt} entries in a grain table; every known writer uses 512.`,
    )
  }
}

/**
 * The footer is a copy of the header, 1024 bytes before the end, with the true grain directory offset. Where it is no copy, readers
 * would see different disks: qemu goes by the footer alone, others by the header.
 */
async function readFooter(source: ByteSource, h: VmdkSparseHeader): Promise<void> {
  const whole = Math.floor(source.size / SECTOR) * SECTOR
  const foot = await readExactly(source, whole - 2 * SECTOR, SECTOR, 'its footer')
  if (foot.toString('latin1', 0, 4) !== VMDK_MAGIC) {
    throw new FormatError(
      'truncated',
      'The VMDK keeps its grain directory in a footer, but the file does not end with one: it is cut off or still being written.',
    )
  }
  if (sectors(foot.readBigUInt64LE(12), 'footer capacity') !== h.capacity_bytes) {
    throw new FormatError('bad-header', "The VMDK's footer states another capacity than its header.")
  }
  if (
    foot.readUInt32LE(4) !== h.version ||
    foot.readUInt32LE(8) !== h.flags ||
    sectors(foot.readBigUInt64LE(20), 'footer grain size') !== h.grain_bytes ||
    foot.readUInt32LE(44) !== h.gtes_per_gt ||
    foot.readUInt16LE(77) !== h.compress_algorithm
  ) {
    throw new FormatError(
      'bad-header',
      "The VMDK's footer states another version, or other flags, grains or compression than its header.",
    )
  }
  const gd = foot.readBigUInt64LE(56)
  if (gd === GD_AT_END) throw new FormatError('bad-header', "The VMDK's footer has no grain directory offset.")
  const offset = sectors(gd, 'grain directory offset')
  if (offset === 0 || offset >= source.size)
    throw new FormatError(
      'truncated',
      `The VMDK's grain directory is at byte ${offset}, but the file has ${source.size} bytes.`,
    )
  h.gd_offset = offset
  h.gd_from = 'footer'
}

async function embedded(source: ByteSource, at: number, size: number): Promise<VmdkDescriptor> {
  const bytes = await source.read(at, size)
  return parseVmdkDescriptor(bytes.toString('utf8'))
}

async function refuseHiddenParent(source: ByteSource): Promise<void> {
  const area = await source.read(QEMU_DESC_AT, QEMU_DESC_SIZE)
  if (area.includes('parentFileNameHint')) {
    throw new FormatError(
      'has-parent',
      'The VMDK names a parent disk, so it is only the changes to another file. Consolidate the snapshots and export again.',
    )
  }
}

function sectors(n: bigint, field: string): number {
  return size64(n * 512n, field)
}
