import { type ByteSource, FormatError, readExactly, size64 } from './source.ts'

/** Source: VirtualBox VDICore.h as described in qemu block/vdi.c. Sizes are bytes. */
export interface VdiHeader {
  type: 'dynamic' | 'static'
  virtual_size: number
  block_size: number
  has_parent: boolean
}

export const VDI_SIGNATURE = 0xbeda107f

/** Parses the pre-header and header. @throws {FormatError} */
export async function parseVdi(source: ByteSource): Promise<VdiHeader> {
  const head = await readExactly(source, 0, 512, 'its VDI header')
  if (head.readUInt32LE(0x40) !== VDI_SIGNATURE) throw new FormatError('not-vdi', 'The file has no VDI signature.')
  const version = head.readUInt32LE(0x44)
  if (version !== 0x00010001)
    throw new FormatError(
      'unsupported',
      `The VDI version is ${version >>> 16}.${version & 0xffff}; version 1.1 is supported.`,
    )
  const type = head.readUInt32LE(0x4c)
  if (type !== 1 && type !== 2 && type !== 3 && type !== 4)
    throw new FormatError('bad-header', `The VDI image type is ${type}; 1 (dynamic) and 2 (static) are supported.`)
  const blockSize = head.readUInt32LE(0x178)
  if (blockSize < 512 || (blockSize & (blockSize - 1)) !== 0)
    throw new FormatError('bad-header', `The VDI's block size is ${blockSize}; a power of two is needed.`)
  const blocks = head.readUInt32LE(0x180)
  const size = size64(head.readBigUInt64LE(0x170), 'disk size')
  if (size > blocks * blockSize)
    throw new FormatError(
      'bad-header',
      `The VDI states ${size} bytes, but its ${blocks} blocks hold only ${blocks * blockSize}.`,
    )
  const map = head.readUInt32LE(0x154)
  const data = head.readUInt32LE(0x158)
  if (map + blocks * 4 > source.size || data > source.size) {
    throw new FormatError(
      'truncated',
      `The VDI's block map ends at byte ${map + blocks * 4}, but the file has ${source.size}.`,
    )
  }
  const allocated = head.readUInt32LE(0x184)
  if (data + allocated * blockSize > source.size) {
    throw new FormatError(
      'truncated',
      `The VDI holds ${allocated} blocks of ${blockSize} bytes, but the file has only ${source.size} bytes: it is cut off or still being written.`,
    )
  }
  const parent = head.subarray(0x1a8, 0x1c8).some((b) => b !== 0)
  return {
    type: type === 2 ? 'static' : 'dynamic',
    virtual_size: size,
    block_size: blockSize,
    has_parent: type === 3 || type === 4 || parent,
  }
}
