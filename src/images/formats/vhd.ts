import { type ByteSource, FormatError, readExactly, size64 } from './source.ts'

/** Source: Microsoft "Virtual Hard Disk Image Format Specification" 1.0. */
export interface VhdFooter {
  type: 'fixed' | 'dynamic' | 'differencing'
  /** bytes; what the footer states */
  current_size: number
  /** bytes; what cylinders × heads × sectors give, which older tools mean */
  chs_size: number
  creator: string
  parent?: string
}

export const VHD_COOKIE = 'conectix'
const TYPES: ReadonlyMap<number, VhdFooter['type']> = new Map([
  [2, 'fixed'],
  [3, 'dynamic'],
  [4, 'differencing'],
])

/** Parses the footer, and of dynamic disks the header it points to. @throws {FormatError} */
export async function parseVhd(source: ByteSource): Promise<VhdFooter> {
  const foot = await footer(source)
  const kind = TYPES.get(foot.readUInt32BE(60))
  if (!kind)
    throw new FormatError(
      'unsupported',
      `The VHD's disk type is ${foot.readUInt32BE(60)}; fixed (2) and dynamic (3) are supported.`,
    )
  const stored = foot.readUInt32BE(64)
  let sum = 0
  for (const [i, b] of foot.entries()) if (i < 64 || i >= 68) sum += b
  if (~sum >>> 0 !== stored)
    throw new FormatError('bad-header', "The VHD footer's checksum is wrong: the file is damaged.")
  const out: VhdFooter = {
    type: kind,
    current_size: size64(foot.readBigUInt64BE(48), 'current size'),
    chs_size: foot.readUInt16BE(56) * foot[58]! * foot[59]! * 512,
    creator: foot.toString('latin1', 28, 32),
  }
  if (kind === 'fixed') {
    if (out.current_size > source.size)
      throw new FormatError(
        'truncated',
        `The fixed VHD states ${out.current_size} bytes, but the file has only ${source.size}.`,
      )
    return out
  }
  const at = size64(foot.readBigUInt64BE(16), 'data offset')
  const head = await readExactly(source, at, 1024, 'its dynamic disk header')
  if (head.toString('latin1', 0, 8) !== 'cxsparse')
    throw new FormatError('bad-header', "The VHD's dynamic disk header has no signature.")
  const blockSize = head.readUInt32BE(32)
  const entries = head.readUInt32BE(28)
  if (blockSize < 512 || (blockSize & (blockSize - 1)) !== 0)
    throw new FormatError('bad-header', `The VHD's block size is ${blockSize}; a power of two is needed.`)
  if (entries * blockSize < out.current_size)
    throw new FormatError('bad-header', "The VHD's block table is too small for its size.")
  const table = size64(head.readBigUInt64BE(16), 'table offset')
  if (table + entries * 4 > source.size)
    throw new FormatError(
      'truncated',
      `The VHD's block table ends at byte ${table + entries * 4}, but the file has ${source.size}.`,
    )
  if (kind === 'differencing') out.parent = head.subarray(64, 576).swap16().toString('utf16le').replace(/\0.*$/s, '')
  return out
}

/** The footer is the last 512 bytes (511 in files of very old tools); dynamic disks carry a copy at the start. */
async function footer(source: ByteSource): Promise<Buffer> {
  for (const length of [512, 511]) {
    const bytes = await source.read(source.size - length, length)
    if (source.size >= length && bytes.toString('latin1', 0, 8) === VHD_COOKIE)
      return Buffer.concat([bytes, Buffer.alloc(512 - length)])
  }
  const copy = await source.read(0, 512)
  if (copy.toString('latin1', 0, 8) === VHD_COOKIE) {
    throw new FormatError(
      'truncated',
      'The VHD has its footer at the start but not at the end: it is cut off or still being written.',
    )
  }
  throw new FormatError('not-vhd', 'The file does not end with a VHD footer.')
}
