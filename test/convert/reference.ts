/**
 * Readers of our own for the two sides of a fast conversion, written from the formats and sharing no code with src/: thousands of mutated disks
 * are judged without a process each. A sample of all that they say is held against qemu-img.
 */
import { inflateRawSync, inflateSync } from 'node:zlib'

export const GRAIN = 65536
const SECTOR = 512

export interface Disk {
  capacity: number
  /** bytes of each grain that is no hole; shorter than a grain at the disk's end alone */
  grains: Map<number, Buffer>
  /** grains that a reader of this one gets an I/O error for */
  broken: Map<number, string>
  /** qemu does not open it, although what it holds is beyond doubt */
  lenient?: boolean
}

/** What qemu reads from a streamOptimized VMDK (block/vmdk.c: markers' addresses are not looked at). @throws Error when it opens none */
export function readStreamVmdk(file: Buffer): Disk {
  let h = file.subarray(0, SECTOR)
  let lenient = false
  if (h.readBigUInt64LE(56) === 0xffffffffffffffffn) {
    // qemu wants the footer's marker, and no piece of a sector behind the file; neither makes another disk of it
    const at = Math.floor(file.length / SECTOR) * SECTOR - 2 * SECTOR
    h = file.subarray(at, at + SECTOR)
    const marker = file.subarray(at - SECTOR, at)
    lenient = file.length % SECTOR !== 0 || marker.readUInt32LE(12) !== 3 || marker.readUInt32LE(8) !== 0
  }
  if (h.toString('latin1', 0, 4) !== 'KDMV') throw new Error('no signature')
  const capacity = Number(h.readBigUInt64LE(12)) * SECTOR
  const grainBytes = Number(h.readBigUInt64LE(20)) * SECTOR
  const entries = h.readUInt32LE(44)
  if (h.readUInt32LE(4) > 3 || grainBytes !== GRAIN || entries === 0 || entries > 512 || h.readUInt16LE(77) !== 1)
    throw new Error('not a streamOptimized VMDK of the usual kind')
  const flags = h.readUInt32LE(8)
  const zeros = (flags & 4) !== 0
  if ((flags & 0x30000) !== 0x30000) throw new Error('not compressed, or without markers')
  const disk: Disk = { capacity, grains: new Map(), broken: new Map(), lenient }
  const directory = Number(h.readBigUInt64LE(56)) * SECTOR
  for (let t = 0; t * entries * GRAIN < capacity; t++) {
    const table = file.readUInt32LE(directory + t * 4) * SECTOR
    if (table === 0) continue
    for (let g = 0; g < entries; g++) {
      const index = t * entries + g
      const rest = capacity - index * GRAIN
      if (rest <= 0) break
      // a table that begins in the file and ends behind it reads as zeros there
      const sector = table + g * 4 + 4 <= file.length ? file.readUInt32LE(table + g * 4) : 0
      if (sector === 0 || (sector === 1 && zeros)) continue
      try {
        disk.grains.set(index, grainAt(file, sector * SECTOR, Math.min(rest, GRAIN)))
      } catch (e) {
        disk.broken.set(index, String((e as Error).message))
      }
    }
  }
  return disk
}

function grainAt(file: Buffer, at: number, wanted: number): Buffer {
  const size = file.readUInt32LE(at + 8)
  if (size === 0 || size > 2 * GRAIN) throw new Error(`a stream of ${size} bytes`)
  const bytes = inflateSync(file.subarray(at + 12, at + 12 + size), { chunkSize: GRAIN, maxOutputLength: GRAIN })
  if (bytes.length < wanted) throw new Error(`only ${bytes.length} bytes`)
  return bytes.subarray(0, wanted)
}

/** What a reader of qcow2 version 3 with clusters of 64 KiB sees. @throws Error for a table that lies nowhere, a refcount that is wrong */
export function readQcow2(file: Buffer): Disk {
  const u64 = (at: number) => Number(file.readBigUInt64BE(at))
  if (file.toString('latin1', 0, 4) !== 'QFI\xfb' || file.readUInt32BE(20) !== 16)
    throw new Error('not the usual qcow2')
  const capacity = u64(24)
  const disk: Disk = { capacity, grains: new Map(), broken: new Map() }
  const uses = new Map<number, number>()
  const use = (from: number, length: number): void => {
    for (let c = Math.floor(from / GRAIN); c <= Math.floor((from + length - 1) / GRAIN); c++)
      uses.set(c, (uses.get(c) ?? 0) + 1)
  }
  use(0, GRAIN)
  const l1 = u64(40)
  use(l1, file.readUInt32BE(36) * 8)
  for (let i = 0; i < file.readUInt32BE(36); i++) {
    const l2 = offsetIn(file.readBigUInt64BE(l1 + i * 8))
    if (l2 === 0) continue
    use(l2, GRAIN)
    for (const j of used(file, l2, 8192, 8)) {
      const entry = file.readBigUInt64BE(l2 + j * 8)
      const index = i * 8192 + j
      const wanted = Math.min(GRAIN, capacity - index * GRAIN)
      if (wanted <= 0) throw new Error(`an entry for cluster ${index}, behind the end of the disk`)
      if ((entry & (1n << 62n)) === 0n) {
        const at = offsetIn(entry)
        use(at, GRAIN)
        disk.grains.set(index, file.subarray(at, at + wanted))
        continue
      }
      const at = Number(entry & ((1n << 54n) - 1n))
      const end = (Math.floor(at / SECTOR) + 1 + Number((entry >> 54n) & 255n)) * SECTOR
      if (end > Math.ceil(file.length / SECTOR) * SECTOR) throw new Error(`cluster ${index} leaves the file`)
      use(at, end - at)
      try {
        disk.grains.set(index, inflateCluster(file.subarray(at, end)).subarray(0, wanted))
      } catch (e) {
        disk.broken.set(index, String((e as Error).message))
      }
    }
  }
  checkRefcounts(file, uses, use)
  return disk
}

function offsetIn(entry: bigint): number {
  return Number(entry & 0x00fffffffffffe00n)
}

/** Indices of the entries of a table that are not all zeros. */
function* used(file: Buffer, at: number, entries: number, width: number): Generator<number> {
  const words = new Int32Array(file.buffer, file.byteOffset + at, (entries * width) / 4)
  let last = -1
  for (let w = 0; w < words.length; w++) {
    if (words[w] === 0) continue
    for (let i = Math.floor((w * 4) / width); i * width < (w + 1) * 4; i++) {
      if (i <= last || file.subarray(at + i * width, at + (i + 1) * width).every((b) => b === 0)) continue
      last = i
      yield i
    }
  }
}

/** qemu stops when a cluster is full, whatever follows. */
function inflateCluster(bytes: Buffer): Buffer {
  // cluster padding follows the stream, so a stream that is cut off would go on in it: flush what there is
  const out = inflateRawSync(bytes, { chunkSize: GRAIN, maxOutputLength: GRAIN, finishFlush: 2 })
  if (out.length !== GRAIN) throw new Error(`only ${out.length} bytes`)
  return out
}

/** Each cluster's refcount is the number of its uses, as `qemu-img check` wants it. */
function checkRefcounts(file: Buffer, uses: Map<number, number>, use: (from: number, length: number) => void): void {
  const table = Number(file.readBigUInt64BE(48))
  const clusters = file.readUInt32BE(56)
  use(table, clusters * GRAIN)
  const counts = new Map<number, number>()
  for (const b of used(file, table, clusters * 8192, 8)) {
    const block = offsetIn(file.readBigUInt64BE(table + b * 8))
    use(block, GRAIN)
    for (const i of used(file, block, 32768, 2)) counts.set(b * 32768 + i, file.readUInt16BE(block + i * 2))
  }
  for (const c of new Set([...uses.keys(), ...counts.keys()]))
    if (uses.get(c) !== counts.get(c))
      throw new Error(`cluster ${c} has ${uses.get(c) ?? 0} users and the refcount ${counts.get(c) ?? 0}`)
}

/** Where two disks differ; undefined: nowhere. Grains in `but` are not looked at. */
export function difference(a: Disk, b: Disk, but: ReadonlySet<number> = new Set()): string | undefined {
  if (a.capacity !== b.capacity) return `capacity ${a.capacity} and ${b.capacity}`
  for (const index of new Set([...a.grains.keys(), ...b.grains.keys(), ...a.broken.keys(), ...b.broken.keys()])) {
    if (but.has(index)) continue
    const broken = a.broken.get(index) ?? b.broken.get(index)
    if (broken !== undefined) return `grain ${index} cannot be read: ${broken}`
    const [x, y] = [a.grains.get(index) ?? ZEROS, b.grains.get(index) ?? ZEROS]
    const n = Math.max(Math.min(x.length, GRAIN), Math.min(y.length, GRAIN), 0)
    const length = Math.min(n, a.capacity - index * GRAIN)
    if (!x.subarray(0, length).equals(y.subarray(0, length))) return `grain ${index} differs`
  }
  return undefined
}

const ZEROS = Buffer.alloc(GRAIN)
