/** OVAs as other tools pack them, and hostile ones, through the whole conversion. */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdirSync, statfsSync, statSync, writeFileSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import {
  makeMf,
  makeOva,
  makeOvf,
  makeTar,
  type OvaShape,
  type TarDialect,
  type TarEntry,
  writeTar,
} from '../support/ova-maker.ts'
import { contentOf, makeStreamVmdk, type VmdkShape } from '../support/vmdk-maker.ts'
import { assertSame, type Bench, bench, disk, list, tempFolder } from './harness.ts'

const GRAIN = 65536
const MiB = 2 ** 20
let dir: string
let b: Bench
const images: { vmdk: Buffer; raw: string; capacity_bytes: number }[] = []

beforeAll(() => {
  dir = tempFolder()
  const shapes: (VmdkShape & { grains: (Buffer | 'hole' | 'zero')[] })[] = [
    { grains: [randomBytes(GRAIN), 'hole', Buffer.alloc(GRAIN, 'one '), 'zero'], footer: true },
    { grains: ['hole', randomBytes(GRAIN), Buffer.alloc(GRAIN, 'two ')], capacity_sectors: 2 * 128 + 77, version: 1 },
    { grains: [Buffer.alloc(GRAIN, 'three ')], order: [0] },
  ]
  for (const [n, shape] of shapes.entries()) {
    const raw = join(dir, `${n}.raw`)
    writeFileSync(raw, contentOf(shape))
    images.push({ vmdk: makeStreamVmdk(shape), raw, capacity_bytes: contentOf(shape).length })
  }
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))
beforeEach(() => {
  b = bench()
})
afterEach(() => b.close())

let count = 0
function put(bytes: Buffer): string {
  const path = join(dir, `${count++}.ova`)
  writeFileSync(path, bytes)
  return path
}

/** The first `n` disks; the OVF attaches them the other way round. */
const disks = (n: number): OvaShape['disks'] =>
  images
    .slice(0, n)
    .map((d, i) => ({ name: `d${i}.vmdk`, bytes: d.vmdk, capacity_bytes: d.capacity_bytes, unit: n - i }))

function assertDisks(at: Bench, n: number): void {
  for (let i = 0; i < n; i++) {
    const file = i === n - 1 ? 'vm.qcow2' : `vm.disks/disk-0-${n - 1 - i}.qcow2`
    assertSame(images[i]!.raw, 'raw', join(at.answerDir, file), 'qcow2')
  }
}

const run = (bytes: Buffer, more: Record<string, unknown> = {}) => b.run({ disks: [disk(put(bytes), 'ova')], ...more })
const messages = (r: { warnings?: readonly { message: string }[] }) => (r.warnings ?? []).map((w) => w.message)

describe('three disks in one OVA', () => {
  const shapes: [string, Partial<OvaShape>][] = [
    ['ustar, "./" in front', { prefix: './' }],
    [
      'GNU with base-256 sizes, disks first',
      { dialect: 'gnu', always_extend: true, order: ['d2.vmdk', 'd0.vmdk', 'd1.vmdk', 'vm.mf', 'vm.ovf'] },
    ],
    [
      'pax with every size in a record, below a folder',
      { dialect: 'pax', always_extend: true, prefix: 'export of vm/' },
    ],
    ['no zeros at the end', { end_blocks: 0 }],
    ['junk behind the end', { junk: Buffer.alloc(20_000, 'junk') }],
    ['SHA1', { mf: 'SHA1' }],
    ['SHA512', { mf: 'SHA512' }],
    [
      'SHA384, sums of files that are not disks',
      {
        mf: 'SHA-384',
        mf_more: `\nSHA384(vm.cert)= ${'0'.repeat(96)}\n`,
        more: [{ name: 'vm.cert', content: Buffer.from('x') }],
      },
    ],
    [
      'certificates, and what macOS leaves behind',
      {
        more: [
          { name: 'vm.cert', content: Buffer.from('-----') },
          { name: './._vm.ovf', content: Buffer.from('mac') },
        ],
      },
    ],
  ]
  // each path sees every second shape
  test.each(shapes.map(([name, shape], i) => ({ name, shape, compress: i % 2 === 0 })))(
    '$name',
    async ({ shape, compress }) => {
      const r = await run(makeOva({ disks: disks(3), mf: 'SHA256', ...shape }), { compress })
      assertDisks(b, 3)
      expect(messages(r)).toEqual([])
      expect((r.disks as { checksum_verified: boolean }[]).every((d) => d.checksum_verified)).toBe(true)
      expect(list(b.attemptDir).filter((f) => f.startsWith('unpack/') || f.endsWith('.vmdk'))).toEqual([])
    },
  )
})

test.each([
  ['zero-copy', true],
  ['inflate', false],
  ['qemu-img', true],
])('a disk behind 9 GiB of another member, by %s', async (path, compress) => {
  const far = join(dir, 'far.ova')
  const hole = { name: 'notes.iso', content: { size: 9 * 2 ** 30 + 5, parts: [] } }
  const members: TarEntry[] = [
    hole,
    { name: 'd0.vmdk', content: images[0]!.vmdk },
    { name: 'vm.ovf', content: Buffer.from(makeOvf([{ href: 'd0.vmdk', capacity_bytes: images[0]!.capacity_bytes }])) },
  ]
  writeTar(far, [...members, { name: 'vm.mf', content: Buffer.from(makeMf(members.slice(1), 'SHA256')) }], {
    dialect: path === 'inflate' ? 'gnu' : 'pax',
  })
  const r = await b.run({ disks: [disk(far, 'ova')], compress, convert: { path } })
  assertDisks(b, 1)
  expect(r.disks).toMatchObject([{ path, checksum_verified: true }])
  // nothing of the 9 GiB may be in the output, or on the disk
  expect(statSync(join(b.answerDir, 'vm.qcow2')).blocks * 512).toBeLessThan(MiB)
})

describe('manifests that are not quite right', () => {
  const withMf = (more: string, mf = 'SHA256') => run(makeOva({ disks: disks(1), mf, mf_more: more }))

  test('unknown files and lines are warned of', async () => {
    const r = await withMf(`SHA256(gone.nvram)= ${'0'.repeat(64)}\n# by hand\nMD5(old)= ${'0'.repeat(32)}\n`)
    expect(messages(r)).toEqual([
      expect.stringContaining('"# by hand"'),
      expect.stringContaining('MD5(old)'),
      expect.stringContaining('not in the archive: "gone.nvram"'),
    ])
    expect(r.disks).toMatchObject([{ checksum_verified: true }])
  })

  test('a line about a disk that cannot be read is refused', async () => {
    await expect(withMf('SHA256(d0.vmdk)= 12345\n')).rejects.toMatchObject({ code: 'bad-ovf', transient: false })
  })

  test('two sums of one disk that differ are refused', async () => {
    await expect(withMf(`SHA256(./d0.vmdk)= ${'0'.repeat(64)}\n`)).rejects.toMatchObject({ code: 'bad-ovf' })
  })

  test('a changed descriptor, and a disk without a sum', async () => {
    const ovf = { name: 'vm.ovf', content: Buffer.from(makeOvf([{ ...disks(1)[0]!, href: 'd0.vmdk' }])) }
    const data = { name: 'd0.vmdk', content: images[0]!.vmdk }
    const mf = makeMf([ovf], 'SHA256')
    const pack = (lines: string) => makeTar([ovf, data, { name: 'vm.mf', content: Buffer.from(lines) }])
    await expect(run(pack(mf.replace(/[0-9a-f]{4}\n/, '0000\n')))).rejects.toMatchObject({ code: 'checksum-mismatch' })
    expect(b.answers()).toEqual(['vm.report.json'])
    const r = await run(pack(mf))
    expect(messages(r)).toEqual([expect.stringContaining('no checksum of "d0.vmdk"')])
    expect(r.disks).toMatchObject([{ checksum_verified: false }])
  })
})

describe('refused, with a name for it', () => {
  const one = { href: 'd0.vmdk', capacity_bytes: MiB }
  const archive = (
    ovf: string,
    more: TarEntry[] = [{ name: 'd0.vmdk', content: Buffer.alloc(4096) }],
    dialect?: TarDialect,
  ) => makeTar([{ name: 'vm.ovf', content: Buffer.from(ovf) }, ...more], dialect ? { dialect } : {})
  const bomb = `<!DOCTYPE z [<!ENTITY a "aaaaaaaaaa">${Array.from({ length: 9 }, (_, n) => `<!ENTITY ${'bcdefghij'[n]} "${`&${'abcdefghi'[n]};`.repeat(10)}">`).join('')}]>`
  test.each<[string, Buffer, string]>([
    ['an entity bomb', archive(makeOvf([one], { name: '&j;' }).replace('?>', `?>${bomb}`)), 'bad-ovf'],
    [
      'an entity that reads a file',
      archive(
        makeOvf([one], { name: '&x;' }).replace('?>', '?><!DOCTYPE z [<!ENTITY x SYSTEM "file:///etc/passwd">]>'),
      ),
      'bad-ovf',
    ],
    ['an OVF that is cut off', archive(makeOvf([one]).slice(0, 900)), 'bad-ovf'],
    ['an OVF of 3 MiB', archive(makeOvf([one], { name: 'n'.repeat(3 * MiB) })), 'bad-ovf'],
    ['elements without end', archive(`<Envelope>${'<a>'.repeat(200_000)}`), 'bad-ovf'],
    ['2000 disks', archive(makeOvf(Array(2000).fill(one))), 'bad-ovf'],
    ['two OVFs', archive(makeOvf([one]), [{ name: 'other.ovf', content: Buffer.from('x') }]), 'bad-archive'],
    ['no OVF', makeTar([{ name: 'd0.vmdk', content: Buffer.alloc(512) }]), 'bad-archive'],
    [
      'a disk in parts',
      archive(makeOvf([{ ...one, chunk_size: 2 ** 30 }]), [{ name: 'd0.vmdk.000000000', content: Buffer.alloc(512) }]),
      'unsupported',
    ],
    [
      'a disk that is a symbolic link',
      archive(makeOvf([one]), [{ name: 'd0.vmdk', content: Buffer.alloc(0), type: '2', link: '/etc/shadow' }]),
      'bad-archive',
    ],
    [
      'a disk that is a hard link',
      archive(makeOvf([one]), [{ name: 'd0.vmdk', content: Buffer.alloc(0), type: '1', link: 'vm.ovf' }]),
      'bad-archive',
    ],
    [
      'a disk of 1 PiB in a file of 4 KiB',
      archive(makeOvf([one]), [{ name: 'd0.vmdk', content: Buffer.alloc(512), claims: 2 ** 50 }], 'gnu'),
      'truncated',
    ],
    [
      'a link and a file of one name',
      archive(makeOvf([one]), [
        { name: 'd0.vmdk', content: images0() },
        { name: './d0.vmdk', content: Buffer.alloc(0), type: '2', link: 'x' },
      ]),
      'bad-archive',
    ],
    [
      'an image that claims 1 PiB',
      archive(makeOvf([one]), [
        {
          name: 'd0.vmdk',
          content: makeStreamVmdk({ grains: [], header: (h) => void h.writeBigUInt64LE(2n ** 41n, 12) }),
        },
      ]),
      'virtual-size',
    ],
    ['an OVF whose disk is itself', archive(makeOvf([{ ...one, href: 'vm.ovf' }])), 'unsupported'],
    [
      'a name that no format has',
      archive(makeOvf([{ ...one, href: 'disk.bin' }]), [{ name: 'disk.bin', content: Buffer.alloc(512) }]),
      'unsupported',
    ],
  ])('%s', async (_name, bytes, code) => {
    const e = (await run(bytes).catch((x: unknown) => x)) as Error
    expect(e).toMatchObject({ code, transient: false })
    expect(e.message.length).toBeLessThan(1000)
    expect(b.answers()).toEqual(['vm.report.json'])
    expect(list(b.attemptDir).filter((f) => /^(copy|unpack)\//.test(f))).toEqual([])
  })

  test.each([
    '../x.vmdk',
    '/etc/passwd',
    'a/../../x',
    '..%2fx.vmdk',
    '%2fetc%2fpasswd',
    'http://host/x.vmdk',
    'file:///etc/passwd',
    'json:{}',
    'nbd:unix:x',
    'a\\b',
    '..',
    '',
    '%00',
  ])('href %j', async (href) => {
    for (const more of [[], [{ name: href === '' ? 'x' : href, content: images0() }]])
      await expect(run(archive(makeOvf([{ ...one, href }]), more))).rejects.toMatchObject({ code: 'reference-refused' })
    const folder = mkdtempSync(join(dir, 'ovf-'))
    mkdirSync(join(folder, 'in'))
    writeFileSync(join(folder, 'x.vmdk'), images0())
    writeFileSync(join(folder, 'in', 'vm.ovf'), makeOvf([{ ...one, href }]))
    await expect(b.run({ disks: [disk(join(folder, 'in', 'vm.ovf'), 'ovf')] })).rejects.toMatchObject({
      code: 'reference-refused',
    })
  })

  /** before beforeAll has run */
  function images0(): Buffer {
    return makeStreamVmdk({ grains: ['hole'] })
  }
})

test('an empty disk that the OVF declares is warned of', async () => {
  const ovf = makeOvf([{ ...disks(1)[0]!, href: 'd0.vmdk' }]).replace(
    '</DiskSection>',
    '<Disk ovf:diskId="scratch" ovf:capacity="5"/></DiskSection>',
  )
  const r = await run(
    makeTar([
      { name: 'vm.ovf', content: Buffer.from(ovf) },
      { name: 'd0.vmdk', content: images[0]!.vmdk },
    ]),
  )
  expect(messages(r)).toEqual([expect.stringContaining('"scratch" is empty'), expect.stringContaining('no manifest')])
})

test('an oVirt disk without an extension is what its OVF says', async () => {
  const qcow2 = join(dir, 'ovirt.qcow2')
  execFileSync('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', images[0]!.raw, qcow2])
  const folder = mkdtempSync(join(dir, 'ovirt-'))
  execFileSync('cp', [qcow2, join(folder, 'a6b63a48')])
  const text = makeOvf([{ href: 'a6b63a48', capacity_bytes: images[0]!.capacity_bytes }])
  writeFileSync(join(folder, 'vm.ovf'), text.replace('<Disk ', '<Disk ovf:volume-format="COW" '))
  await b.run({ disks: [disk(join(folder, 'vm.ovf'), 'ovf')] })
  assertDisks(b, 1)
})

describe.runIf(process.geteuid?.() === 0)('a small filesystem', () => {
  test('a gzip bomb ends where the reserve begins', async () => {
    const mount = mkdtempSync(join(tmpdir(), 'vmspool-small-'))
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', mount])
    let least = Infinity
    const look = setInterval(() => {
      const s = statfsSync(mount)
      least = Math.min(least, s.bfree * s.bsize)
    }, 1)
    try {
      const reserve = 24 * MiB
      const c = bench({ dir: mount, config: { space: { reserve_bytes: reserve } } })
      const path = join(dir, 'bomb.raw.gz')
      writeFileSync(path, Buffer.concat(Array(20).fill(gzipSync(Buffer.alloc(16 * MiB, 'A')))))
      await expect(c.run({ disks: [disk(path, 'raw')] })).rejects.toMatchObject({ code: 'no-space', transient: true })
      expect(least).toBeGreaterThan(reserve - MiB)
      expect(least).toBeLessThan(64 * MiB)
      expect(list(mount)).toEqual(['.work/1-me/answer/vm.report.json'])
    } finally {
      clearInterval(look)
      execFileSync('umount', [mount])
      rmSync(mount, { recursive: true, force: true })
    }
  })
})
