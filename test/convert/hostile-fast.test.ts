/**
 * streamOptimized VMDKs that were damaged, by chance or on purpose, through every path: an error with a reason or the very disk that qemu reads, and
 * never a byte of another disk of the archive. `npm run soak` does it for longer. MUTATION_SEED repeats a run.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { deflateSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { JobError } from '../../src/jobs/types.ts'
import { exportOva } from '../support/export-ova.ts'
import { loopFs } from '../support/loop-fs.ts'
import { type Grain, makeStreamVmdk, type VmdkShape } from '../support/vmdk-maker.ts'
import { bench, disk, list, tempFolder } from './harness.ts'
import { judge, noTally } from './judge.ts'

const GRAIN = 65536
let dir: string
beforeAll(() => {
  dir = tempFolder()
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

const grains: Grain[] = Array.from({ length: 12 }, (_, i) =>
  i === 3 ? 'zero' : i === 5 ? 'hole' : Buffer.alloc(GRAIN, `grain ${i} of the disk. `),
)

/** Every way to convert a streamOptimized disk. */
const modes: [string, Record<string, unknown>][] = [
  ['zero copy, full', { compress: true, validate: { grains: 'full' } }],
  ['zero copy, structure', { compress: true, validate: { grains: 'structure' } }],
  ['plain qcow2', { compress: false }],
  ['raw', { compress: false, output: { format: 'raw' } }],
]

interface Outcome {
  /** the error's code, or the path that made the image */
  how: string
  /** as `qemu-img compare` says; undefined: there is no image */
  same?: boolean
}

async function convertEach(file: Buffer): Promise<Record<string, Outcome>> {
  const source = join(dir, 'crafted.vmdk')
  writeFileSync(source, file)
  const out: Record<string, Outcome> = {}
  for (const [name, manifest] of modes) {
    const b = bench({ config: { convert: { grains: 'structure' } } })
    try {
      const r = await b.run({ disks: [disk(source, 'vmdk')], ...manifest }).catch((e: unknown) => e)
      if (r instanceof Error) {
        expect(r, String(r.stack)).toBeInstanceOf(JobError)
        expect(list(b.answerDir)).toEqual(['vm.report.json'])
        out[name] = { how: (r as JobError).code }
      } else {
        const format = (manifest.output as { format: string } | undefined)?.format ?? 'qcow2'
        const image = join(b.answerDir, `vm.${format}`)
        const same = spawnSync('qemu-img', ['compare', '-q', '-f', 'vmdk', '-F', format, source, image])
        out[name] = { how: b.report().disks[0].path, same: same.status === 0 }
      }
    } finally {
      b.close()
    }
  }
  return out
}

const all = (o: Outcome): Record<string, Outcome> => Object.fromEntries(modes.map(([name]) => [name, o]))
const sound: Record<string, Outcome> = {
  'zero copy, full': { how: 'zero-copy', same: true },
  'zero copy, structure': { how: 'zero-copy', same: true },
  'plain qcow2': { how: 'inflate', same: true },
  raw: { how: 'inflate', same: true },
}
const refused = (how: string) => all({ how })
const byQemu = all({ how: 'qemu-img', same: true })
/** What inflating finds and looking at markers cannot. */
const damaged = (structure: Outcome) => ({ ...refused('damaged-grain'), 'zero copy, structure': structure })

const stream = (index: number, make: (old: Buffer) => Buffer): Partial<VmdkShape> => ({
  meddle: (i, g) => {
    if (i !== index) return
    g.stream = make(g.stream)
    g.size = g.stream.length
  },
})
const flipped = (at: number, bit: number) => (old: Buffer) => {
  const b = Buffer.from(old)
  b[at < 0 ? b.length + at : at]! ^= bit
  return b
}
const field64 = (at: number, value: bigint): Partial<VmdkShape> => ({
  header: (h) => void h.writeBigUInt64LE(value, at),
})
const marked = (change: (g: { lba: bigint; size: number }) => { lba: bigint; size: number }): Partial<VmdkShape> => ({
  meddle: (i, g) => {
    if (i === 4) Object.assign(g, change({ lba: g.lba, size: g.size }))
  },
})
const directory = (index: number, value: (s: Uint32Array) => number): Partial<VmdkShape> => ({
  directory: (s) => {
    s[index] = value(s)
  },
})
const entry = (index: number, value: (s: Uint32Array) => number): Partial<VmdkShape> => ({
  entries: (s) => {
    s[index] = value(s)
  },
})

/** [what, how it is made, what each path answers] */
const crafted: [string, Partial<VmdkShape> & { grains?: Grain[] }, Record<string, Outcome>][] = [
  ['a sound disk', {}, sound],
  ['a sound disk with its directory in the footer', { footer: true }, sound],
  ['a capacity that is no multiple of a grain', { capacity_sectors: 12 * 128 - 37 }, sound],
  [
    'a grain that inflates beyond 64 KiB',
    stream(4, () => deflateSync(Buffer.alloc(GRAIN + 1, 'x'))),
    damaged({ how: 'zero-copy', same: false }),
  ],
  [
    'a grain that inflates to gigabytes',
    stream(4, () => deflateSync(Buffer.alloc(2 ** 24))),
    damaged({ how: 'zero-copy', same: false }),
  ],
  [
    'a grain that is too short',
    stream(4, () => deflateSync(Buffer.alloc(GRAIN - 1, 'x'))),
    damaged({ how: 'zero-copy', same: false }),
  ],
  ['an empty grain', stream(4, () => deflateSync(Buffer.alloc(0))), damaged({ how: 'zero-copy', same: false })],
  ['a wrong Adler-32', stream(4, flipped(-1, 1)), damaged({ how: 'zero-copy', same: false })],
  ['a bit flipped in the data', stream(4, flipped(20, 4)), damaged({ how: 'zero-copy', same: false })],
  ['a stream with something behind it', stream(4, (old) => Buffer.concat([old, Buffer.alloc(700, 0xff)])), sound],
  ['no zlib header', stream(4, (old) => old.subarray(2)), refused('qemu-img')],
  [
    'a preset dictionary',
    stream(4, () => deflateSync(Buffer.alloc(GRAIN, 'x'), { dictionary: Buffer.from('xxxx') })),
    refused('qemu-img'),
  ],
  [
    'a window of 64 KiB',
    stream(4, (old) => Buffer.concat([Buffer.from([0x88, 0x1c]), old.subarray(2)])),
    refused('qemu-img'),
  ],
  ['a grain marked for another place', marked((g) => ({ ...g, lba: g.lba + 128n })), byQemu],
  ['an absurd marker size', marked((g) => ({ ...g, size: 0xffffffff })), refused('qemu-img')],
  ['a marker size of 0', marked((g) => ({ ...g, size: 0 })), refused('qemu-img')],
  ['two entries for one grain', entry(4, (s) => s[2]!), byQemu],
  ['an entry into the header', entry(4, () => 2), refused('qemu-img')],
  ['an entry into the grain directory', entry(4, () => 21), refused('qemu-img')],
  ['an entry behind the end', entry(4, () => 0x7fffffff), refused('truncated')],
  ['a grain table behind the end', directory(0, () => 0x7fffffff), refused('truncated')],
  ['a grain directory behind the end', field64(56, 2n ** 40n), refused('truncated')],
  ['a capacity of 1 PiB', field64(12, 2n ** 41n), refused('virtual-size')],
  ['a capacity beyond all numbers', field64(12, 2n ** 63n), refused('absurd-size')],
  ['a grain size of 1 TiB', field64(20, 2n ** 31n), refused('bad-header')],
  [
    'two tables of the directory at one place',
    { grains: [...grains, ...Array.from({ length: 512 }, (): Grain => 'hole')], ...directory(1, (s) => s[0]!) },
    byQemu,
  ],
  [
    'a footer that states another grain size',
    {
      footer: true,
      header: (h) => void h.writeBigUInt64LE(h.readBigUInt64LE(56) === 2n ** 64n - 1n ? 128n : 256n, 20),
    },
    refused('bad-header'),
  ],
]

describe('crafted disks', () => {
  test.each(crafted)('%s', async (_what, shape, expected) => {
    expect(await convertEach(makeStreamVmdk({ grains, ...shape }))).toEqual(expected)
  })

  test('a disk that ends too early, at any sector', async () => {
    const whole = makeStreamVmdk({ grains })
    for (const sectors of [1, 3, 20, 25, 127, 128, 130, whole.length / 512 - 2]) {
      const each = await convertEach(whole.subarray(0, sectors * 512))
      for (const o of Object.values(each)) expect(o).toEqual({ how: 'truncated' })
    }
  })
})

/** Images in files, as raw bytes: which of the marks does each hold? */
async function marksHeld(
  home: string,
  manifest: Record<string, unknown>,
): Promise<{ held: number[]; report: unknown }> {
  const b = bench({ dir: home, config: { convert: { grains: 'structure' } } })
  // stored, not deflated, so that a neighbour's bytes can be searched for
  const marks = ['disk-zero-of-the-archive', 'disk-one-of-the-archive', 'disk-two-of-the-archive']
  const disks = marks.map((mark, i) => {
    const path = join(home, `disk${i}.vmdk`)
    const content = Buffer.alloc(GRAIN, mark)
    writeFileSync(path, makeStreamVmdk({ grains: [content, 'hole', content], level: 0 }))
    return { path, capacity_bytes: 3 * GRAIN }
  })
  await b.run({ disks: [disk(await exportOva('three', disks), 'ova')], ...manifest })
  // for raw there is a small qcow2 beside each, which holds no data
  const held = list(b.answerDir)
    .filter((f) => /\.(qcow2|raw)$/.test(f))
    .map((f) => readFileSync(join(b.answerDir, f)))
    .map((bytes) => marks.filter((m) => bytes.includes(m)).length)
  return { held: held.filter((n) => n > 0), report: b.report().disks }
}

describe('several disks in one OVA: no image holds a byte of its neighbours', () => {
  test.each(modes)('%s', async (_name, manifest) => {
    const home = tempFolder()
    try {
      expect((await marksHeld(home, manifest)).held).toEqual([1, 1, 1])
    } finally {
      rmSync(home, { recursive: true, force: true })
    }
  })

  test('cloned', async (context) => {
    await using fs = await loopFs(dir, 'btrfs', 1).catch((e: unknown) => context.skip(`no loop mount here: ${e}`))
    const { held, report } = await marksHeld(fs.path, { compress: true })
    expect(held).toEqual([1, 1, 1])
    // the first lies where the header must go, unless the archive's own head leaves room
    expect((report as { transfer?: string }[]).map((d) => d.transfer)).toContain('clone')
  })
})

test('damaged disks by every path, the same each time', { timeout: 900_000 }, async () => {
  const first = Number(process.env.MUTATION_SEED ?? 20260501)
  const tally = noTally()
  // in memory, for each image is synced several times
  const home = tempFolder(existsSync('/dev/shm') ? '/dev/shm' : dir)
  // a run that made nothing, or refused nothing, would prove nothing: it goes on until there are enough of each
  const fewest = (): number => Math.min(tally.made, tally.refused, tally.fallback, tally.damaged)
  try {
    for (let n = 0; n < 300 || (n < 5000 && fewest() < 50); n++) await judge(first + n, home, tally, n % 50 === 0)
  } finally {
    rmSync(home, { recursive: true, force: true })
  }
  console.log(JSON.stringify(tally))
  expect(fewest()).toBeGreaterThanOrEqual(50)
})
