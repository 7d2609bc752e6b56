/** What the generator makes is what qemu reads, and our own reader agrees on the layout. */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { deflateRawSync } from 'node:zlib'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { bufferSource, checkVmdkBounds, parseVmdk } from '../../src/images/formats/index.ts'
import { contentOf, type Grain, makeStreamVmdk, type VmdkShape, writeStreamVmdk } from '../support/vmdk-maker.ts'

const GRAIN = 65536
let dir: string
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'vmspool-vmdk-'))
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

const noise = () => randomBytes(GRAIN)
const text = (n: number) => Buffer.alloc(GRAIN, `grain ${n} `)
const grains: Grain[] = ['hole', text(1), 'zero', noise(), 'hole', text(5), Buffer.alloc(GRAIN), noise()]
/** over three grain tables */
const many: Grain[] = Array.from({ length: 1200 }, (_, n) => (n % 97 === 5 ? text(n) : n % 131 === 7 ? 'zero' : 'hole'))

const shapes: [string, VmdkShape & { grains: Grain[] }][] = [
  ['head', { grains }],
  ['footer', { grains, footer: true }],
  ['version 1', { grains, version: 1 }],
  ['version 2, two sets of tables', { grains, version: 2, redundant: true }],
  ['a capacity of an odd number of sectors', { grains, capacity_sectors: 7 * 128 + 37 }],
  ['a last grain that is cut short', { grains: [...grains, noise().subarray(0, 512)], capacity_sectors: 8 * 128 + 1 }],
  ['ends in a hole', { grains: [...grains, 'hole'], capacity_sectors: 8 * 128 + 3 }],
  ['out of order, with gaps, stored', { grains, order: [7, 1, 5, 2, 3, 6], gaps: { 5: 3, 3: 1000 }, level: 0 }],
  ['several tables in the footer', { grains: many, footer: true }],
  ['several tables in the head', { grains: many, redundant: true, level: 9 }],
  ['first grain inside the first 64 KiB', { grains, overhead_sectors: 0 }],
  ['grains of 8 KiB', { grains: [randomBytes(8192), 'hole', randomBytes(8192)], grain_sectors: 16 }],
]

test.each(shapes)('%s', async (name, shape) => {
  const bytes = makeStreamVmdk(shape)
  const path = join(dir, `${name}.vmdk`)
  writeFileSync(path, bytes)
  const raw = join(dir, 'raw')
  writeFileSync(raw, contentOf(shape))
  execFileSync('qemu-img', ['compare', '-f', 'vmdk', '-F', 'raw', path, raw], { stdio: 'pipe' })
  const parsed = await parseVmdk(bufferSource(bytes))
  if (parsed.kind !== 'sparse') throw new Error('no sparse header')
  expect(parsed.header).toMatchObject({
    gd_from: shape.footer ? 'footer' : 'header',
    version: shape.version ?? 3,
    compressed: true,
    capacity_bytes: contentOf(shape).length,
  })
  await checkVmdkBounds(bufferSource(bytes), parsed.header)
})

test('a disk of 3 TiB with a grain beyond 4 GiB of the file, written piece by piece', () => {
  const path = join(dir, 'large.vmdk')
  const count = (3 * 2 ** 40) / GRAIN
  const last = noise()
  const size = writeStreamVmdk(path, {
    count,
    order: [0, count - 1],
    grain: (n) => (n === 0 ? text(0) : last),
    gaps: { [count - 1]: (5 * 2 ** 30) / 512 },
  })
  expect(statSync(path).size).toBe(size)
  expect(statSync(path).blocks * 512).toBeLessThan(64 * 2 ** 20)
  // comparing all of it takes qemu a minute
  const read = (grain: number) => {
    const out = join(dir, 'part')
    const part = `driver=raw,offset=${grain * GRAIN},size=${GRAIN},file.driver=vmdk,file.file.driver=file`
    const args = ['convert', '--image-opts', `${part},file.file.filename=${path}`, '-O', 'raw', out]
    execFileSync('qemu-img', args, { stdio: 'pipe' })
    return readFileSync(out)
  }
  expect(read(0).equals(text(0))).toBe(true)
  expect(read(count - 1).equals(last)).toBe(true)
})

test('faults are where they were asked for', async () => {
  const at = (b: Buffer, entry: number) => b.subarray(entry * 512)
  let sector = 0
  const o: VmdkShape & { grains: Grain[] } = {
    grains,
    entries: (e) => {
      sector = e[3]!
    },
  }
  makeStreamVmdk(o)
  const wrongLba = makeStreamVmdk({
    ...o,
    meddle: (n, g) => {
      if (n === 3) g.lba = 99n
    },
  })
  expect(at(wrongLba, sector).readBigUInt64LE(0)).toBe(99n)
  const bare = makeStreamVmdk({
    ...o,
    meddle: (n, g) => {
      if (n !== 3) return
      g.stream = deflateRawSync(grains[3] as Buffer)
      g.size = g.stream.length
    },
  })
  expect(at(bare, sector)[12]).not.toBe(0x78)
  const outside = makeStreamVmdk({
    ...o,
    entries: (e) => {
      e[3] = 0x7fffffff
    },
  })
  const parsed = await parseVmdk(bufferSource(outside))
  if (parsed.kind !== 'sparse') throw new Error('no sparse header')
  await expect(checkVmdkBounds(bufferSource(outside), parsed.header)).rejects.toMatchObject({ code: 'truncated' })
})
