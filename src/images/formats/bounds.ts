import type { Qcow2Header } from './qcow2.ts'
import { type ByteSource, FormatError, readExactly, size64 } from './source.ts'
import type { VhdxInfo } from './vhdx.ts'
import type { VmdkSparseHeader } from './vmdk.ts'
import { eachTable } from './vmdk-tables.ts'

/**
 * Does everything that an image's tables point to lie in its file? qemu reads zeros beyond the end of a file, so a copy that was cut off would
 * become an image called good. Tables are read piece by piece: a disk of 2 TiB has 256 MiB of them.
 */

const SECTOR = 512
/** Table bytes read at once. */
const PIECE = 1024 * 1024

function cutOff(what: string, end: number, size: number): FormatError {
  return new FormatError(
    'truncated',
    `${what} ends at byte ${end}, but the file has only ${size} bytes: it is cut off or still being written.`,
  )
}

/** Grain directory → grain tables → grains. @throws {FormatError} truncated */
export async function checkVmdkBounds(s: ByteSource, h: VmdkSparseHeader, signal?: AbortSignal): Promise<void> {
  const perTable = h.gtes_per_gt * h.grain_bytes
  const tables = Math.ceil(h.capacity_bytes / perTable)
  await forPieces(s, h.gd_offset!, tables * 4, 'its grain directory', signal, async (dir, first) => {
    await eachTable(s, dir, first / 4, h.gtes_per_gt, signal, (base, table) => {
      for (let g = 0; g < h.gtes_per_gt; g++) {
        const grain = table.readUInt32LE(g * 4)
        if (grain <= 1) continue
        const guest = base * perTable + g * h.grain_bytes
        const need = h.compressed ? 12 : Math.min(h.grain_bytes, h.capacity_bytes - guest)
        if (need > 0 && grain * SECTOR + need > s.size)
          throw cutOff(`The grain for byte ${guest} of the disk`, grain * SECTOR + need, s.size)
      }
    })
  })
}

const L1_OFFSET = 0x00fffffffffffe00n

/** L1 → L2 → clusters. @throws {FormatError} truncated */
export async function checkQcow2Bounds(s: ByteSource, h: Qcow2Header, signal?: AbortSignal): Promise<void> {
  const entry = h.extended_l2 ? 16 : 8
  const perTable = h.cluster_size / entry
  const tables = Math.ceil(h.virtual_size / (perTable * h.cluster_size))
  if (h.l1_entries < tables)
    throw new FormatError(
      'bad-header',
      `The qcow2 image's L1 table has ${h.l1_entries} entries; its size of ${h.virtual_size} bytes needs ${tables}.`,
    )
  const shift = BigInt(62 - (Math.log2(h.cluster_size) - 8))
  const offsetMask = (1n << shift) - 1n
  await forPieces(s, h.l1_offset, tables * 8, 'its L1 table', signal, async (l1, first) => {
    for (let i = 0; i + 8 <= l1.length; i += 8) {
      const at = size64(l1.readBigUInt64BE(i) & L1_OFFSET, 'L2 table offset')
      if (at === 0) continue
      signal?.throwIfAborted()
      const base = ((first + i) / 8) * perTable
      const l2 = await readExactly(s, at, h.cluster_size, `L2 table ${(first + i) / 8}`)
      for (let c = 0; c < perTable; c++) {
        const guest = (base + c) * h.cluster_size
        if (guest >= h.virtual_size) break
        // two 32-bit reads: nearly all entries are plain or empty, and a bigint each costs five times as much
        const high = l2.readUInt32BE(c * entry)
        const low = l2.readUInt32BE(c * entry + 4)
        if (high === 0 && low === 0) continue
        let offset: number
        let need = 1
        if (high & 0x40000000) offset = Number(l2.readBigUInt64BE(c * entry) & offsetMask)
        else {
          offset = (high & 0x00ffffff) * 2 ** 32 + ((low & 0xfffffe00) >>> 0)
          if (offset === 0 || (low & 1) === 1) continue // not allocated, or zeros whatever the cluster holds
          need = Math.min(h.cluster_size, h.virtual_size - guest)
        }
        if (offset + need > s.size) throw cutOff(`The cluster for byte ${guest} of the disk`, offset + need, s.size)
      }
    }
  })
}

/** Blocks of the allocation table that are fully present. @throws {FormatError} truncated */
export async function checkVhdxBounds(s: ByteSource, h: VhdxInfo, signal?: AbortSignal): Promise<void> {
  const ratio = (2 ** 23 * h.logical_sector) / h.block_size
  const blocks = Math.ceil(h.virtual_size / h.block_size)
  const entries = blocks + Math.floor((blocks - 1) / ratio)
  await forPieces(s, h.bat_offset, entries * 8, 'its block allocation table', signal, async (bat, first) => {
    for (let i = 0; i + 8 <= bat.length; i += 8) {
      const index = (first + i) / 8
      if (index % (ratio + 1) === ratio) continue // a sector bitmap, of differencing disks only
      const low = bat.readUInt32LE(i)
      if ((low & 7) !== 6) continue
      const offset = bat.readUInt32LE(i + 4) * 2 ** 32 + ((low & 0xfff00000) >>> 0)
      const guest = (index - Math.floor(index / (ratio + 1))) * h.block_size
      const end = offset + Math.min(h.block_size, h.virtual_size - guest)
      if (end > s.size) throw cutOff(`The block for byte ${guest} of the disk`, end, s.size)
    }
  })
}

async function forPieces(
  s: ByteSource,
  at: number,
  length: number,
  what: string,
  signal: AbortSignal | undefined,
  each: (piece: Buffer, offset: number) => Promise<void>,
): Promise<void> {
  if (at + length > s.size) throw cutOff(`The part of the file that holds ${what}`, at + length, s.size)
  for (let done = 0; done < length; done += PIECE) {
    signal?.throwIfAborted()
    await each(await readExactly(s, at + done, Math.min(PIECE, length - done), what), done)
  }
}
