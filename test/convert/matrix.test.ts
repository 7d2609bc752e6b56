/** Every source subformat to every output format, compared by qemu-img. */
import { randomBytes } from 'node:crypto'
import {
  closeSync,
  linkSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { writeStreamVmdk } from '../support/vmdk-maker.ts'
import { assertSame, bench, disk, qemuImg, tempFolder } from './harness.ts'

const SIZE = 24 * 1024 * 1024 + 512 * 7 // no multiple of a grain or cluster
let dir: string
let raw: string

/** [name, source_format, qemu format, options] */
const sources: [string, string, string, string[]][] = [
  ['monolithicSparse', 'vmdk', 'vmdk', ['-o', 'subformat=monolithicSparse']],
  ['streamOptimized', 'vmdk', 'vmdk', ['-o', 'subformat=streamOptimized']],
  ['monolithicFlat', 'vmdk', 'vmdk', ['-o', 'subformat=monolithicFlat']],
  ['twoGbMaxExtentSparse', 'vmdk', 'vmdk', ['-o', 'subformat=twoGbMaxExtentSparse']],
  ['twoGbMaxExtentFlat', 'vmdk', 'vmdk', ['-o', 'subformat=twoGbMaxExtentFlat']],
  ['qcow2-v3', 'qcow2', 'qcow2', []],
  ['qcow2-v2', 'qcow2', 'qcow2', ['-o', 'compat=0.10']],
  ['qcow2-zstd', 'qcow2', 'qcow2', ['-c', '-o', 'compression_type=zstd,cluster_size=2M']],
  ['qcow2-tiny-clusters', 'qcow2', 'qcow2', ['-o', 'cluster_size=512']],
  ['raw', 'raw', 'raw', []],
  ['vhd-dynamic', 'vhd', 'vpc', ['-o', 'subformat=dynamic,force_size=on']],
  ['vhd-fixed', 'vhd', 'vpc', ['-o', 'subformat=fixed,force_size=on']],
  ['vhd-geometry', 'vhd', 'vpc', ['-o', 'subformat=dynamic']],
  ['vhdx-dynamic', 'vhdx', 'vhdx', ['-o', 'subformat=dynamic']],
  ['vhdx-fixed', 'vhdx', 'vhdx', ['-o', 'subformat=fixed']],
  ['vdi-dynamic', 'vdi', 'vdi', []],
  ['vdi-static', 'vdi', 'vdi', ['-o', 'static=on']],
]

beforeAll(() => {
  dir = tempFolder()
  raw = join(dir, 'disk.raw')
  const fd = openSync(raw, 'w')
  // data, a hole, compressible data, a hole, and the very last sector
  writeSync(fd, randomBytes(3 * 1024 * 1024), 0, undefined, 0)
  writeSync(fd, Buffer.alloc(1024 * 1024, 'vmspool '), 0, undefined, 9 * 1024 * 1024 + 4096)
  writeSync(fd, randomBytes(512), 0, undefined, SIZE - 512)
  closeSync(fd)
  for (const [name, format, driver, options] of sources) {
    qemuImg('convert', '-f', 'raw', '-O', driver, ...options, raw, join(dir, `${name}.${format}`))
  }
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

describe.each(sources)('%s', (name, format, driver) => {
  test.each(['qcow2', 'raw', 'vdi'])('to %s', async (output) => {
    const b = bench()
    try {
      const source = join(dir, `${name}.${format}`)
      const before = statSync(source)
      const r = await b.run({ disks: [disk(source, format)], output: { format: output } })
      const main = join(b.answerDir, `vm.${output}`)
      assertSame(source, driver, main, output)
      // a VHD by geometry is rounded up, everything else has the raw disk's size (VDI and VHDX round to their sectors alike)
      if (name !== 'vhd-geometry') assertSame(raw, 'raw', main, output)
      // pollers wait for this name, and through it the same disk must be seen
      assertSame(source, driver, join(b.answerDir, 'vm.qcow2'), 'qcow2')
      expect(r.artifacts?.map((a) => a.path)).toEqual(output === 'qcow2' ? ['vm.qcow2'] : [`vm.${output}`, 'vm.qcow2'])
      const after = statSync(source)
      expect([after.ino, after.size, after.mtimeMs]).toEqual([before.ino, before.size, before.mtimeMs])
    } finally {
      b.close()
    }
  })
})

/** Every other way in which the output can be asked for; what is not said is tried above. */
const ways: [string, Record<string, unknown>][] = [
  ['compressed', { compress: true }],
  ['compressed with zlib', { compress: true, convert: { compression_type: 'zlib' } }],
  ['compressed by qemu-img', { compress: true, convert: { path: 'qemu-img' } }],
  ['strict', { compress: true, convert: { strict: true } }],
  ['plain by qemu-img', { compress: false, convert: { path: 'qemu-img' } }],
  ['raw by qemu-img', { output: { format: 'raw' }, convert: { path: 'qemu-img' } }],
]

describe.each([
  ['streamOptimized', 'vmdk', 'zero-copy', ways],
  ['monolithicSparse', 'vmdk', 'qemu-img', ways.slice(0, 2)],
  ['twoGbMaxExtentFlat', 'vmdk', 'qemu-img', ways.slice(0, 1)],
  ['vhdx-dynamic', 'vhdx', 'qemu-img', ways.slice(0, 1)],
  ['raw', 'raw', 'qemu-img', ways.slice(0, 2)],
] as const)('%s', (name, format, best, these) => {
  test.each(these)('%s', async (way, manifest) => {
    const b = bench()
    try {
      const r = await b.run({ disks: [disk(join(dir, `${name}.${format}`), format)], ...manifest })
      const [{ path }] = r.disks as [{ path: string }]
      expect(path).toBe(
        way.startsWith('compressed') && !('convert' in manifest && 'path' in (manifest.convert as object))
          ? best
          : 'qemu-img',
      )
      const kind = way.startsWith('raw') ? 'raw' : 'qcow2'
      assertSame(raw, 'raw', join(b.answerDir, `vm.${kind}`), kind)
      if (kind === 'raw') return
      const info = JSON.parse(qemuImg('info', '--output=json', join(b.answerDir, 'vm.qcow2')))
      const check = JSON.parse(qemuImg('check', '--output=json', join(b.answerDir, 'vm.qcow2')))
      const zlib = path === 'zero-copy' || way === 'strict' || way.endsWith('zlib') || !manifest.compress
      expect(info['format-specific'].data['compression-type']).toBe(zlib ? 'zlib' : 'zstd')
      expect(check['compressed-clusters'] > 0).toBe(manifest.compress === true)
    } finally {
      b.close()
    }
  })
})

/** A disk in the way that some other writer has it, from one that qemu-img made; gives the file to convert. */
const others: [string, string, (at: (name: string) => string) => string][] = [
  [
    'VMFS flat, as ESXi keeps its disks',
    'vmdk',
    (at) => {
      const text = readFileSync(join(dir, 'monolithicFlat.vmdk'), 'latin1')
        .replace('monolithicFlat"', 'vmfs"')
        .replace(/^(RW \d+) FLAT ("[^"]*") 0$/m, '$1 VMFS $2')
      writeFileSync(at('esxi.vmdk'), text)
      linkSync(join(dir, 'monolithicFlat-flat.vmdk'), at('monolithicFlat-flat.vmdk'))
      return at('esxi.vmdk')
    },
  ],
  ...[2, 3].map((version): (typeof others)[number] => [
    `monolithicSparse version ${version}`,
    'vmdk',
    (at) => {
      const bytes = readFileSync(join(dir, 'monolithicSparse.vmdk'))
      bytes.writeUInt32LE(version, 4)
      writeFileSync(at('d.vmdk'), bytes)
      return at('d.vmdk')
    },
  ]),
  ...[1, 2, 3].flatMap((version) =>
    [true, false].map((footer): (typeof others)[number] => [
      `streamOptimized version ${version}, grain directory in the ${footer ? 'footer' : 'head'}`,
      'vmdk',
      (at) => {
        const content = readFileSync(raw)
        writeStreamVmdk(at('d.vmdk'), {
          count: Math.ceil(SIZE / 65536),
          capacity_sectors: SIZE / 512,
          version,
          footer,
          redundant: version === 2,
          grain: (n) => {
            const grain = Buffer.alloc(65536)
            content.copy(grain, 0, n * 65536)
            return grain.some((x) => x !== 0) ? grain : n % 2 ? 'zero' : 'hole'
          },
        })
        return at('d.vmdk')
      },
    ]),
  ),
  ['qcow2 with extended L2 entries', 'qcow2', (at) => made(at('d.qcow2'), 'qcow2', 'extended_l2=on')],
  ['VHDX with blocks of 1 MiB', 'vhdx', (at) => made(at('d.vhdx'), 'vhdx', 'block_size=1M')],
  ['qcow2 with metadata ahead', 'qcow2', (at) => made(at('d.qcow2'), 'qcow2', 'preallocation=metadata')],
]

function made(path: string, driver: string, options: string): string {
  qemuImg('convert', '-f', 'raw', '-O', driver, '-o', options, raw, path)
  return path
}

test.each(others)('%s', async (_name, format, make) => {
  const folder = mkdtempSync(join(dir, 'other-'))
  const b = bench()
  try {
    await b.run({
      disks: [
        disk(
          make((name) => join(folder, name)),
          format,
        ),
      ],
    })
    assertSame(raw, 'raw', join(b.answerDir, 'vm.qcow2'), 'qcow2')
  } finally {
    b.close()
  }
})

test.each(['twoGbMaxExtentSparse', 'twoGbMaxExtentFlat'])('%s in several extents', async (subformat) => {
  const large = join(dir, 'large.raw')
  const size = 5 * 2 ** 30 + 512
  const fd = openSync(large, 'w')
  // across the border of the first extent, and at the very end
  for (const at of [2047 * 2 ** 20 - 4096, 2 ** 31 - 4096, size - 512])
    writeSync(fd, randomBytes(512), 0, undefined, at)
  closeSync(fd)
  const folder = mkdtempSync(join(dir, 'extents-'))
  const b = bench()
  try {
    qemuImg('convert', '-f', 'raw', '-O', 'vmdk', '-o', `subformat=${subformat}`, large, join(folder, 'd.vmdk'))
    expect(readdirSync(folder).length).toBe(4)
    await b.run({ disks: [disk(join(folder, 'd.vmdk'), 'vmdk')] })
    assertSame(large, 'raw', join(b.answerDir, 'vm.qcow2'), 'qcow2')
  } finally {
    b.close()
  }
})

test.each(['zstd', 'zlib'])('compressed with %s', async (type) => {
  const b = bench({ config: { convert: { compression_type: type } } })
  try {
    const source = join(dir, 'raw.raw')
    await b.run({ disks: [disk(source, 'raw')], compress: true })
    const out = join(b.answerDir, 'vm.qcow2')
    assertSame(source, 'raw', out, 'qcow2')
    const info = JSON.parse(qemuImg('info', '--output=json', '-f', 'qcow2', out)) as {
      'format-specific': { data: { 'compression-type': string } }
    }
    expect(info['format-specific'].data['compression-type']).toBe(type)
    expect(JSON.parse(qemuImg('check', '--output=json', '-f', 'qcow2', out))['compressed-clusters']).toBeGreaterThan(0)
  } finally {
    b.close()
  }
})

test('the qcow2 beside a raw answer stays valid wherever both are moved together', async () => {
  const b = bench()
  const moved = tempFolder()
  try {
    await b.run({ disks: [disk(join(dir, 'raw.raw'), 'raw')], output: { format: 'raw' } })
    qemuImg('info', join(b.answerDir, 'vm.qcow2'))
    const { cpSync } = await import('node:fs')
    cpSync(b.answerDir, join(moved, 'out'), { recursive: true })
    b.close()
    assertSame(raw, 'raw', join(moved, 'out', 'vm.qcow2'), 'qcow2')
    expect(statSync(join(moved, 'out', 'vm.qcow2')).size).toBeLessThan(1024 * 1024)
  } finally {
    b.close()
    rmSync(moved, { recursive: true, force: true })
  }
})
