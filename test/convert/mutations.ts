/** streamOptimized VMDKs of several writers' kinds, and damage to them: by chance, and by somebody who knows the format. */
import { deflateSync } from 'node:zlib'
import type { Random } from '../sim/random.ts'
import { type Grain, makeStreamVmdk, type VmdkShape } from '../support/vmdk-maker.ts'

const GRAIN = 65536
const SECTOR = 512

/** Text-like, so that a grain is a few KiB, with a number that tells where it belongs. */
const texts = new Map<number, Buffer>()
function text(seed: number): Buffer {
  const known = texts.get(seed)
  if (known) return Buffer.from(known)
  const out = Buffer.alloc(GRAIN)
  texts.set(seed, out)
  for (let at = 0; at < GRAIN; at += 64)
    out.write(`grain ${seed} line ${at} ${(seed * 7919 + at * 31) % 65521}\n`, at, 'latin1')
  return Buffer.from(out)
}

function noise(r: Random, part: number): Buffer {
  const out = text(r.int(1000))
  out.set(r.bytes(Math.floor(GRAIN * part)), r.int(1000))
  return out.subarray(0, GRAIN)
}

/** A sound disk of at most 16 grains, drawn anew each time. */
function soundDisk(r: Random): Buffer {
  const count = 1 + r.int(10)
  const far = r.chance(0.3) ? 512 - Math.floor(count / 2) : 0
  const grains: Grain[] = Array.from({ length: far }, () => 'hole')
  for (let i = 0; i < count; i++)
    grains.push(
      r.chance(0.12)
        ? 'hole'
        : r.chance(0.12)
          ? 'zero'
          : r.chance(0.1)
            ? Buffer.alloc(GRAIN)
            : r.chance(0.2)
              ? noise(r, r() / 4)
              : text(far + i),
    )
  const shape: VmdkShape = {
    level: r.pick([1, 6, 9]),
    version: r.pick([1, 2, 3]),
    footer: r.chance(0.5),
    overhead_sectors: r.pick([128, 128, 21, 406, 2048]),
  }
  if (!shape.footer && r.chance(0.3)) shape.redundant = true
  if (r.chance(0.4)) {
    shape.capacity_sectors = grains.length * 128 - r.int(128)
    const last = grains.at(-1)!
    const short = GRAIN - (grains.length * 128 - shape.capacity_sectors) * SECTOR
    // some writers cut the last grain, others fill it up
    if (Buffer.isBuffer(last) && r.chance(0.5)) grains[grains.length - 1] = last.subarray(0, short)
  }
  if (r.chance(0.2)) shape.order = shuffled(r, grains.length)
  if (r.chance(0.2)) shape.gaps = { [r.int(grains.length)]: r.int(300) }
  return makeStreamVmdk({ ...shape, grains })
}

function shuffled(r: Random, n: number): number[] {
  const list = Array.from({ length: n }, (_, i) => i)
  for (let i = n - 1; i > 0; i--) {
    const j = r.int(i + 1)
    ;[list[i], list[j]] = [list[j]!, list[i]!]
  }
  return list
}

/** Where the parts of a sound file lie, so that damage can be aimed. */
interface Anatomy {
  /** byte offsets of the headers that count: the head's, and the footer's */
  headers: number[]
  directory: number
  /** byte offsets of grain table entries in use */
  entries: number[]
  /** byte offsets of directory entries */
  tables: number[]
  /** byte offsets of grain markers */
  grains: number[]
}

function anatomy(b: Buffer): Anatomy {
  const footer = b.readBigUInt64LE(56) === 0xffffffffffffffffn
  const headers = footer ? [0, b.length - 2 * SECTOR] : [0]
  const h = headers.at(-1)!
  const directory = Number(b.readBigUInt64LE(h + 56)) * SECTOR
  const count = Math.ceil(Number(b.readBigUInt64LE(h + 12)) / (128 * 512))
  if (count > 100_000) throw new RangeError('not the size that was made')
  const entries: number[] = []
  const grains: number[] = []
  const tables = Array.from({ length: count }, (_, t) => directory + t * 4)
  for (const t of tables) {
    const at = b.readUInt32LE(t) * SECTOR
    if (at === 0) continue
    for (let g = 0; g < 512; g++) {
      const sector = b.readUInt32LE(at + g * 4)
      if (sector === 0) continue
      entries.push(at + g * 4)
      if (sector > 1) grains.push(sector * SECTOR)
    }
  }
  return { headers, directory, entries, tables, grains }
}

type Damage = (b: Buffer, a: Anatomy, r: Random) => Buffer | undefined

const sector = (b: Buffer, a: Anatomy, r: Random): number =>
  r.pick([
    0,
    1,
    2,
    r.int(128),
    r.int(Math.ceil(b.length / SECTOR)),
    Math.ceil(b.length / SECTOR) - r.int(3),
    Math.ceil(b.length / SECTOR) + r.int(1000),
    0xffffffff,
    r.int(2 ** 32),
    ...(a.grains.length > 0 ? [r.pick(a.grains) / SECTOR, r.pick(a.grains) / SECTOR + 1] : []),
    Math.floor(r.pick(a.tables.map((t) => b.readUInt32LE(t)))),
  ])

const HEADER_FIELDS: [number, 2 | 4 | 8, (number | bigint)[]][] = [
  [4, 4, [0, 1, 2, 3, 4, 0xffffffff]],
  [8, 4, [0, 3, 0x30001, 0x30003, 0x10005, 0x20005, 0x30007, 0xffffffff]],
  [12, 8, [0n, 1n, 3n, 127n, 128n, 129n, 65535n, 65537n, 2n ** 31n, 2n ** 41n, 2n ** 54n, 2n ** 63n, 2n ** 64n - 1n]],
  [20, 8, [0n, 1n, 8n, 64n, 127n, 256n, 2048n, 2n ** 40n, 2n ** 64n - 1n]],
  [28, 8, [0n, 1n, 2n, 128n, 2n ** 40n]],
  [36, 8, [0n, 1n, 20n, 2n ** 40n]],
  [44, 4, [0, 1, 128, 511, 512, 513, 0xffffffff]],
  [48, 8, [0n, 1n, 2n ** 40n, 2n ** 64n - 1n]],
  [56, 8, [0n, 1n, 21n, 2n ** 20n, 2n ** 40n, 2n ** 55n, 2n ** 64n - 1n, 2n ** 64n - 2n]],
  [64, 8, [0n, 1n, 2n ** 40n]],
  [72, 2, [0, 1, 0x0100]],
  [77, 2, [0, 1, 2, 0xffff]],
]

function put(b: Buffer, at: number, width: 2 | 4 | 8, value: number | bigint): void {
  if (width === 8) b.writeBigUInt64LE(BigInt(value), at)
  else b.writeUIntLE(Number(value), at, width)
}

const damages: Record<string, Damage> = {
  bit: (b, _a, r) => {
    const at = r.int(b.length)
    b[at]! ^= 1 << r.int(8)
    return b
  },
  'bit of a grain': (b, a, r) => {
    if (a.grains.length === 0) return undefined
    const g = r.pick(a.grains)
    const at = g + r.int(12 + Math.min(b.length - g - 12, b.readUInt32LE(g + 8)))
    b[at]! ^= 1 << r.int(8)
    return b
  },
  bytes: (b, _a, r) => {
    const at = r.int(b.length)
    b.set(r.bytes(Math.min(1 + r.int(64), b.length - at)), at)
    return b
  },
  'cut off': (b, _a, r) => Buffer.from(b.subarray(0, r.chance(0.5) ? r.int(b.length) : b.length - r.int(2000))),
  'something behind': (b, _a, r) => Buffer.concat([b, Buffer.from(r.bytes(r.int(2000)))]),
  'header field': (b, a, r) => {
    const [at, width, values] = r.pick(HEADER_FIELDS)
    const value = r.pick(values)
    for (const h of r.chance(0.5) ? a.headers : [r.pick(a.headers)]) put(b, h + at, width, value)
    return b
  },
  capacity: (b, a, r) => {
    const h = a.headers.at(-1)!
    const now = b.readBigUInt64LE(h + 12)
    const next = now + BigInt(r.int(260) - 130)
    for (const x of a.headers) b.writeBigUInt64LE(next > 0n ? next : 1n, x + 12)
    return b
  },
  'table entry': (b, a, r) => {
    if (a.entries.length === 0) return undefined
    b.writeUInt32LE(sector(b, a, r), r.pick(a.entries))
    return b
  },
  'unused table entry': (b, a, r) => {
    const table = b.readUInt32LE(r.pick(a.tables)) * SECTOR
    if (table === 0) return undefined
    b.writeUInt32LE(sector(b, a, r), table + r.int(512) * 4)
    return b
  },
  'directory entry': (b, a, r) => {
    b.writeUInt32LE(sector(b, a, r), r.pick(a.tables))
    return b
  },
  'two entries swapped': (b, a, r) => {
    if (a.entries.length < 2) return undefined
    const [x, y] = [r.pick(a.entries), r.pick(a.entries)]
    const [p, q] = [b.readUInt32LE(x), b.readUInt32LE(y)]
    b.writeUInt32LE(q, x)
    b.writeUInt32LE(p, y)
    return b
  },
  'marker address': (b, a, r) => {
    if (a.grains.length === 0) return undefined
    const g = r.pick(a.grains)
    b.writeBigUInt64LE(
      r.pick([0n, 1n, 128n, 2n ** 32n, 2n ** 63n, b.readBigUInt64LE(g) + 128n, b.readBigUInt64LE(g) + 2n ** 32n]),
      g,
    )
    return b
  },
  'marker size': (b, a, r) => {
    if (a.grains.length === 0) return undefined
    const g = r.pick(a.grains)
    const size = b.readUInt32LE(g + 8)
    b.writeUInt32LE(
      r.pick([
        0,
        1,
        2,
        5,
        6,
        7,
        size - 1,
        size + 1,
        size - 4,
        size + 4,
        size + 500,
        131072,
        131073,
        2 ** 31,
        2 ** 32 - 1,
      ]) >>> 0,
      g + 8,
    )
    return b
  },
  'zlib header': (b, a, r) => {
    if (a.grains.length === 0) return undefined
    // no compression method, a window of 64 KiB, a preset dictionary, a wrong check, a small window
    b.writeUInt16BE(
      r.pick([0x0000, 0x8801, 0x78bb, 0x7820, 0x789d, 0x0815, 0x1819, 0x4889, 0x7801]),
      r.pick(a.grains) + 12,
    )
    return b
  },
  'another stream': (b, a, r) => {
    if (a.grains.length === 0) return undefined
    const g = r.pick(a.grains)
    const length = r.pick([0, 1, 511, 512, 4096, GRAIN - 1, GRAIN, GRAIN + 1, 2 * GRAIN, 50 * GRAIN, 1000 * GRAIN])
    const stream = deflateSync(Buffer.alloc(length, r.int(3)), { windowBits: r.pick([9, 12, 15]) })
    const tail = Buffer.from(r.bytes(r.pick([0, 0, 1, 3, 4, 5, 600])))
    const all = Buffer.concat([stream, tail])
    if (g + 12 + all.length > b.length) return undefined
    b.writeUInt32LE(all.length, g + 8)
    all.copy(b, g + 12)
    return b
  },
  'grain on a grain': (b, a, r) => {
    if (a.grains.length < 2) return undefined
    const [x, y] = [r.pick(a.grains), r.pick(a.grains)]
    const whole = 12 + b.readUInt32LE(x + 8)
    const lba = b.readBigUInt64LE(y)
    b.copyWithin(y, x, Math.min(b.length, x + whole))
    if (r.chance(0.7)) b.writeBigUInt64LE(lba, y)
    return b
  },
  'grain inside a grain': (b, a, r) => {
    // a sound grain hidden in the stored bytes of another: two disks in one
    if (a.grains.length === 0 || a.entries.length < 2) return undefined
    const g = r.pick(a.grains)
    const entry = r.pick(a.entries)
    const inner = deflateSync(text(r.int(100)))
    const place = Math.ceil((g + 12 + 40) / SECTOR) * SECTOR
    if (place + 12 + inner.length > b.length) return undefined
    const index = (entry - b.readUInt32LE(a.tables[0]!) * SECTOR) / 4
    b.writeBigUInt64LE(BigInt(Math.max(0, index)) * 128n, place)
    b.writeUInt32LE(inner.length, place + 8)
    inner.copy(b, place + 12)
    b.writeUInt32LE(place / SECTOR, entry)
    return b
  },
}

const names = Object.keys(damages)

/** Draws a sound disk and damages it up to three times; one in twelve stays sound. */
export function mutatedDisk(r: Random): { file: Buffer; what: string[] } {
  let file = soundDisk(r)
  const what: string[] = []
  const times = r.chance(1 / 12) ? 0 : r.pick([1, 1, 1, 2, 3])
  for (let i = 0; i < times; i++) {
    const name = r.pick(names)
    let a: Anatomy
    try {
      a = anatomy(file)
    } catch {
      break // so damaged already that no aim can be taken
    }
    if (a.tables.length === 0) break
    let done: Buffer | undefined
    try {
      done = damages[name]!(file, a, r)
    } catch {
      continue // the damage done before moved what this one wanted to hit
    }
    if (done === undefined) continue
    file = done
    what.push(name)
  }
  return { file, what }
}
