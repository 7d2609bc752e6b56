/**
 * Mutated headers: a parser gives an answer or a FormatError, reads a bounded amount, and never asks for a negative or broken range. FUZZ_RUNS
 * is the number of mutations of each image (default 400); FUZZ_SEED repeats a run.
 */
import { execFileSync } from 'node:child_process'
import { randomBytes, randomInt } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { ByteSource } from '../../src/images/formats/index.ts'
import {
  checkQcow2Bounds,
  checkVhdxBounds,
  checkVmdkBounds,
  detectFormat,
  FormatError,
  listTar,
  parseMf,
  parseOvf,
  parseQcow2,
  parseVdi,
  parseVhd,
  parseVhdx,
  parseVmdk,
} from '../../src/images/formats/index.ts'

const RUNS = Number(process.env.FUZZ_RUNS ?? 400)
/** The same each time, unless it is to find something new. */
const SEED = Number(process.env.FUZZ_SEED ?? (process.env.FUZZ_RUNS ? randomInt(2 ** 31) : 20260501))
let dir: string
const images = new Map<string, Buffer>()

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'vmspool-fuzz-'))
  const raw = join(dir, 'd.raw')
  writeFileSync(raw, Buffer.concat([randomBytes(200_000), Buffer.alloc(500_000), randomBytes(512 * 9)]))
  const make = (name: string, format: string, ...options: string[]) => {
    execFileSync('qemu-img', ['convert', '-f', 'raw', '-O', format, ...options, raw, join(dir, name)])
    images.set(name, readFileSync(join(dir, name)))
  }
  make('qcow2', 'qcow2')
  make('qcow2-c', 'qcow2', '-c', '-o', 'compression_type=zstd')
  make('vmdk', 'vmdk')
  make('vmdk-so', 'vmdk', '-o', 'subformat=streamOptimized')
  make('vmdk-flat', 'vmdk', '-o', 'subformat=monolithicFlat')
  make('vhd', 'vpc')
  make('vhdx', 'vhdx')
  make('vdi', 'vdi')
  execFileSync('tar', ['-C', dir, '--format=pax', '-cf', join(dir, 'tar'), 'vmdk', 'qcow2'])
  images.set('tar', readFileSync(join(dir, 'tar')))
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

const isOf = (name: string, format: string) => name === format || name.startsWith(`${format}-`)

/** mulberry32: a seed is enough to repeat a run */
function generator(seed: number): () => number {
  let a = seed >>> 0
  return () => {
    a = (a + 0x6d2b79f5) >>> 0
    let t = Math.imul(a ^ (a >>> 15), 1 | a)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}

const NUMBERS = [
  0n,
  1n,
  0x7fn,
  0x80n,
  0xffn,
  0xffffn,
  0x7fffffffn,
  0x80000000n,
  0xffffffffn,
  2n ** 53n,
  2n ** 63n - 1n,
  2n ** 64n - 1n,
]

/** Changes a few places, most of them near the start where the headers are. */
function mutate(original: Buffer, next: () => number): Buffer {
  let b = Buffer.from(original)
  const times = 1 + Math.floor(next() * 4)
  for (let i = 0; i < times; i++) {
    const reach = next() < 0.7 ? Math.min(b.length, 1024) : b.length
    const at = Math.floor(next() * Math.max(1, reach - 8))
    const how = next()
    if (how < 0.35) b[at] = Math.floor(next() * 256)
    else if (how < 0.75) {
      const n = NUMBERS[Math.floor(next() * NUMBERS.length)]!
      const aligned = at - (at % 4)
      const width = next() < 0.5 ? 4 : 8
      if (aligned + 8 > b.length) continue
      if (width === 4)
        next() < 0.5
          ? b.writeUInt32BE(Number(n & 0xffffffffn), aligned)
          : b.writeUInt32LE(Number(n & 0xffffffffn), aligned)
      else next() < 0.5 ? b.writeBigUInt64BE(n, aligned) : b.writeBigUInt64LE(n, aligned)
    } else if (how < 0.85) b = b.subarray(0, Math.floor(next() * b.length))
    else if (how < 0.95) b.copy(b, at, Math.floor(next() * b.length), Math.floor(next() * b.length))
    else b = Buffer.concat([b, Buffer.alloc(Math.floor(next() * 2048))])
    if (b.length < 16) return b
  }
  return b
}

/** Counts what is read, and objects to what no file can answer. */
function counted(bytes: Buffer): ByteSource & { total: number } {
  const s = {
    size: bytes.length,
    total: 0,
    read: async (offset: number, length: number) => {
      if (!Number.isFinite(offset) || !Number.isFinite(length))
        throw new Error(`asked for ${length} bytes at ${offset}`)
      if (length > 8 * 1024 * 1024) throw new Error(`asked for ${length} bytes at once`)
      const from = Math.min(Math.max(0, offset), bytes.length)
      const part = bytes.subarray(from, Math.max(from, Math.min(bytes.length, from + length)))
      s.total += part.length
      return part
    },
  }
  return s
}

const parsers: [string, (s: ByteSource) => Promise<unknown>][] = [
  [
    'qcow2',
    async (s) => {
      const h = await parseQcow2(s)
      if (h.virtual_size <= 2 ** 46) await checkQcow2Bounds(s, h)
    },
  ],
  [
    'vmdk',
    async (s) => {
      const f = await parseVmdk(s)
      if (f.kind === 'sparse' && f.header.capacity_bytes > 0 && f.header.capacity_bytes <= 2 ** 46)
        await checkVmdkBounds(s, f.header)
    },
  ],
  ['vhd', parseVhd],
  [
    'vhdx',
    async (s) => {
      const h = await parseVhdx(s)
      if (h.virtual_size > 0 && h.virtual_size <= 2 ** 46) await checkVhdxBounds(s, h)
    },
  ],
  ['vdi', parseVdi],
  ['tar', listTar],
]

describe(`mutations, FUZZ_SEED=${SEED}`, () => {
  test.each(parsers)('%s', async (format, parse) => {
    const own = [...images].filter(([name]) => isOf(name, format))
    let accepted = 0
    let refused = 0
    for (const [name, original] of own) {
      await parse(counted(original)) // the unharmed image is accepted
      const next = generator(SEED)
      for (let run = 0; run < RUNS; run++) {
        const bytes = mutate(original, next)
        const source = counted(bytes)
        try {
          await parse(source)
          accepted++
        } catch (e) {
          if (!(e instanceof FormatError))
            throw new Error(`FUZZ_SEED=${SEED}, ${name}, run ${run}: ${String(e)}`, { cause: e })
          expect(e.message, `FUZZ_SEED=${SEED}, ${name}, run ${run}`).toMatch(/\.$/)
          refused++
        }
        // tables may name the same table again and again; even so what is read stays within what the headers could honestly ask for
        expect(source.total, `FUZZ_SEED=${SEED}, ${name}, run ${run}`).toBeLessThan(256 * 1024 * 1024)
      }
    }
    expect(accepted + refused).toBe(own.length * RUNS)
    // a generator that only makes junk, or only harmless changes, tests nothing
    expect(accepted).toBeGreaterThan(0)
    expect(refused).toBeGreaterThan(0)
  })

  test('every reader on every other format', async () => {
    for (const [name, bytes] of images) {
      for (const [format, parse] of parsers) {
        if (isOf(name, format)) continue
        await expect(parse(counted(bytes)), `${format} of ${name}`).rejects.toBeInstanceOf(FormatError)
      }
      expect(await detectFormat(counted(bytes))).toBe(name.replace(/-.*$/, ''))
    }
  })

  test('OVF and .mf', () => {
    const next = generator(SEED)
    const ovf = Buffer.from(
      '<Envelope xmlns:ovf="o"><References><File ovf:id="f" ovf:href="d.vmdk"/></References><DiskSection><Disk ovf:diskId="d" ovf:fileRef="f" ovf:capacity="10" ovf:capacityAllocationUnits="byte * 2^30"/></DiskSection><VirtualSystem ovf:id="v"><Name>n</Name></VirtualSystem></Envelope>',
    )
    expect(parseOvf(ovf.toString()).disks[0]).toEqual({ disk_id: 'd', href: 'd.vmdk', capacity: 10 * 2 ** 30 })
    const mf = Buffer.from(`SHA256(d.vmdk)= ${'a'.repeat(64)}\n`)
    for (let run = 0; run < RUNS; run++) {
      for (const [parse, original] of [
        [parseOvf, ovf],
        [parseMf, mf],
      ] as const) {
        const text = mutate(original, next).toString('latin1')
        try {
          parse(text)
        } catch (e) {
          if (!(e instanceof FormatError))
            throw new Error(`FUZZ_SEED=${SEED}, run ${run}: ${JSON.stringify(text)}`, { cause: e })
        }
      }
    }
  })
})
