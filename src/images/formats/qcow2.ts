import { type ByteSource, FormatError, readExactly, size64 } from './source.ts'

/** Source: qemu docs/interop/qcow2.txt. Sizes and offsets are bytes. */
export interface Qcow2Header {
  version: number
  virtual_size: number
  cluster_size: number
  /** name as it stands in the header; an image that has one reads another file */
  backing_file?: string
  /** external data file: the guest's data lies in another file (incompatible feature bit 2) */
  external_data: boolean
  /** header extension 0x44415441: its name */
  data_file?: string
  /** 0 none, 1 AES, 2 LUKS */
  crypt_method: number
  dirty: boolean
  corrupt: boolean
  /** L2 entries of 16 bytes with a bitmap of subclusters */
  extended_l2: boolean
  compression: 'zlib' | 'zstd'
  snapshots: number
  l1_offset: number
  l1_entries: number
  /** everything from which qemu takes the name of another file lies in the first so many bytes */
  name_area_bytes: number
}

export const QCOW2_MAGIC = 0x514649fb
const EXT_END = 0
const EXT_BACKING_FORMAT = 0xe2792aca
const EXT_DATA_FILE = 0x44415441
const KNOWN_INCOMPATIBLE = 0b11111n

/** Parses the header and its extensions. @throws {FormatError} for everything that is no sane qcow2 */
export async function parseQcow2(source: ByteSource): Promise<Qcow2Header> {
  const head = await readExactly(source, 0, 72, 'its qcow2 header')
  if (head.readUInt32BE(0) !== QCOW2_MAGIC) throw new FormatError('not-qcow2', 'The file has no qcow2 signature.')
  const version = head.readUInt32BE(4)
  if (version !== 2 && version !== 3) {
    throw new FormatError('unsupported', `The qcow2 version is ${version}; versions 2 and 3 are supported.`)
  }
  const clusterBits = head.readUInt32BE(20)
  if (clusterBits < 9 || clusterBits > 21) {
    throw new FormatError('bad-header', `The qcow2 header's cluster_bits is ${clusterBits}; 9 to 21 are allowed.`)
  }
  const clusterSize = 2 ** clusterBits
  const virtualSize = size64(head.readBigUInt64BE(24), 'virtual size')
  const v3 = version === 3 ? await readExactly(source, 72, 32, 'its version 3 header') : undefined
  const incompatible = v3?.readBigUInt64BE(0) ?? 0n
  if (incompatible & ~KNOWN_INCOMPATIBLE) {
    throw new FormatError(
      'unsupported',
      `The qcow2 image uses unknown incompatible features (0x${incompatible.toString(16)}).`,
    )
  }
  const headerLength = v3?.readUInt32BE(28) ?? 72
  if (headerLength < (v3 ? 104 : 72) || headerLength > clusterSize) {
    throw new FormatError(
      'bad-header',
      `The qcow2 header's length is ${headerLength}; at least ${v3 ? 104 : 72} and at most one cluster (${clusterSize}) is allowed.`,
    )
  }
  let compression: 'zlib' | 'zstd' = 'zlib'
  if (headerLength > 104) {
    const type = (await readExactly(source, 104, 1, 'its compression type'))[0]
    if (type === 1) compression = 'zstd'
    else if (type !== 0)
      throw new FormatError(
        'unsupported',
        `The qcow2 compression type is ${type}; zlib (0) and zstd (1) are supported.`,
      )
  }
  const backingOffset = size64(head.readBigUInt64BE(8), 'backing file offset')
  const backingSize = head.readUInt32BE(16)
  const header: Qcow2Header = {
    version,
    virtual_size: virtualSize,
    cluster_size: clusterSize,
    external_data: (incompatible & 4n) !== 0n,
    crypt_method: head.readUInt32BE(32),
    dirty: (incompatible & 1n) !== 0n,
    corrupt: (incompatible & 2n) !== 0n,
    extended_l2: (incompatible & 16n) !== 0n,
    compression,
    snapshots: head.readUInt32BE(60),
    l1_entries: head.readUInt32BE(36),
    l1_offset: size64(head.readBigUInt64BE(40), 'L1 table offset'),
    name_area_bytes: clusterSize,
  }
  if (backingOffset !== 0 || backingSize !== 0) {
    const length = Math.min(backingSize, 1023)
    header.backing_file = (await source.read(backingOffset, length)).toString('utf8') || '(an unreadable name)'
  }
  await extensions(
    source,
    header,
    headerLength,
    backingOffset > 0 && backingOffset < clusterSize ? backingOffset : clusterSize,
  )
  return header
}

async function extensions(source: ByteSource, header: Qcow2Header, start: number, end: number): Promise<void> {
  let at = start
  // one extension takes at least 8 bytes and the area at most one cluster of 2 MiB: the loop is bounded
  while (at + 8 <= end) {
    const head = await source.read(at, 8)
    if (head.length < 8) return
    const type = head.readUInt32BE(0)
    const length = head.readUInt32BE(4)
    if (type === EXT_END) return
    if (at + 8 + length > end) {
      throw new FormatError(
        'bad-header',
        `A qcow2 header extension (0x${type.toString(16)}, ${length} bytes) leaves the header.`,
      )
    }
    if (type === EXT_DATA_FILE) {
      header.data_file = (await source.read(at + 8, Math.min(length, 1023))).toString('utf8') || '(an unreadable name)'
    } else if (type === EXT_BACKING_FORMAT && header.backing_file === undefined && length > 0) {
      // qemu ignores a backing format without a backing file, and so do we
    }
    at += 8 + Math.ceil(length / 8) * 8
  }
}
