import { type ByteSource, FormatError, readExactly, size64 } from './source.ts'

/** Source: Microsoft [MS-VHDX]. */
export interface VhdxInfo {
  virtual_size: number
  block_size: number
  /** bytes, 512 or 4096 */
  logical_sector: number
  bat_offset: number
  has_parent: boolean
  /** the log holds writes that are not yet in place: it was not closed cleanly */
  log_pending: boolean
}

export const VHDX_SIGNATURE = 'vhdxfile'
const METADATA_REGION = '8b7ca206-4790-4b9a-b8fe-575f050f886e'
const FILE_PARAMETERS = 'caa16737-fa36-4d43-b3b6-33f0aa44e76b'
const VIRTUAL_SIZE = '2fa54224-cd1b-4876-b211-5dbed83bf4b8'
const PARENT_LOCATOR = 'a8d35f2d-b30b-454d-abf7-d3d84834ab0c'
const LOGICAL_SECTOR = '8141bf1d-a96f-4709-ba47-f233a8faab5f'
const BAT_REGION = '2dc27766-f623-4200-9d64-115e9bfd4a08'
const KiB = 1024

/** Walks region table and metadata table. @throws {FormatError} */
export async function parseVhdx(source: ByteSource): Promise<VhdxInfo> {
  const id = await readExactly(source, 0, 8, 'its VHDX identifier')
  if (id.toString('latin1') !== VHDX_SIGNATURE) throw new FormatError('not-vhdx', 'The file has no VHDX signature.')
  const region = await findRegion(source, METADATA_REGION)
  const table = await readExactly(source, region, 64 * KiB, 'its metadata table')
  if (table.toString('latin1', 0, 8) !== 'metadata')
    throw new FormatError('bad-header', "The VHDX's metadata table has no signature.")
  const count = table.readUInt16LE(10)
  if (count > 2047)
    throw new FormatError('bad-header', `The VHDX's metadata table states ${count} entries; at most 2047 fit.`)
  let virtualSize: number | undefined
  let params: Buffer | undefined
  let locator = false
  let sector = 512
  for (let i = 0; i < count; i++) {
    const at = 32 + i * 32
    const item = guid(table.subarray(at, at + 16))
    const where = region + table.readUInt32LE(at + 16)
    if (item === VIRTUAL_SIZE)
      virtualSize = size64((await readExactly(source, where, 8, 'its virtual size')).readBigUInt64LE(0), 'virtual size')
    else if (item === FILE_PARAMETERS) params = await readExactly(source, where, 8, 'its file parameters')
    else if (item === LOGICAL_SECTOR) sector = (await readExactly(source, where, 4, 'its sector size')).readUInt32LE(0)
    else if (item === PARENT_LOCATOR) locator = true
  }
  if (virtualSize === undefined || params === undefined)
    throw new FormatError('bad-header', "The VHDX's metadata lacks the virtual size or the file parameters.")
  const blockSize = params.readUInt32LE(0)
  if (blockSize < KiB * KiB || blockSize > 256 * KiB * KiB || (blockSize & (blockSize - 1)) !== 0) {
    throw new FormatError(
      'bad-header',
      `The VHDX's block size is ${blockSize}; a power of two from 1 to 256 MiB is allowed.`,
    )
  }
  if (sector !== 512 && sector !== 4096)
    throw new FormatError('bad-header', `The VHDX's sector size is ${sector}; 512 and 4096 are allowed.`)
  return {
    virtual_size: virtualSize,
    block_size: blockSize,
    logical_sector: sector,
    bat_offset: await findRegion(source, BAT_REGION),
    has_parent: locator || (params.readUInt32LE(4) & 2) !== 0,
    log_pending: await logPending(source),
  }
}

async function findRegion(source: ByteSource, wanted: string): Promise<number> {
  for (const base of [192 * KiB, 256 * KiB]) {
    const table = await source.read(base, 64 * KiB)
    if (table.length < 16 || table.toString('latin1', 0, 4) !== 'regi') continue
    const count = table.readUInt32LE(8)
    for (let i = 0; i < Math.min(count, 2047); i++) {
      const at = 16 + i * 32
      if (at + 32 > table.length) break
      if (guid(table.subarray(at, at + 16)) === wanted) return size64(table.readBigUInt64LE(at + 16), 'region offset')
    }
  }
  throw new FormatError(
    'bad-header',
    'The VHDX has no region table that lists what it needs: it is damaged or cut off.',
  )
}

/** Of the two headers the one with the higher sequence number counts; a log GUID that is not zero asks for a replay. */
async function logPending(source: ByteSource): Promise<boolean> {
  let best = -1n
  let pending = false
  for (const at of [64 * KiB, 128 * KiB]) {
    const head = await source.read(at, 80)
    if (head.length < 80 || head.toString('latin1', 0, 4) !== 'head') continue
    const sequence = head.readBigUInt64LE(8)
    if (sequence <= best) continue
    best = sequence
    pending = head.subarray(48, 64).some((b) => b !== 0)
  }
  if (best < 0n) throw new FormatError('bad-header', 'The VHDX has no valid header: it is damaged or cut off.')
  return pending
}

function guid(b: Buffer): string {
  const hex = (from: number, to: number) => b.toString('hex', from, to)
  const swap = (from: number, to: number) => Buffer.from(b.subarray(from, to)).reverse().toString('hex')
  return `${swap(0, 4)}-${swap(4, 6)}-${swap(6, 8)}-${hex(8, 10)}-${hex(10, 16)}`
}
