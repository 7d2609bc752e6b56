/** gzip around OVAs and disks: unpacked once into a file of our own, bounded, checked, and gone at the end. */
import { execFileSync, spawnSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { makeMf, makeOva, makeOvf, makeTar } from '../support/ova-maker.ts'
import { contentOf, makeStreamVmdk } from '../support/vmdk-maker.ts'
import { until } from '../support/wait.ts'
import { assertSame, type Bench, bench, disk, list, tempFolder } from './harness.ts'

const GRAIN = 65536
let dir: string
let vmdk: Buffer
let b: Bench

beforeAll(() => {
  dir = tempFolder()
  const shape = { grains: [randomBytes(GRAIN), 'hole' as const, Buffer.alloc(GRAIN, 'text '), randomBytes(GRAIN)] }
  vmdk = makeStreamVmdk(shape)
  writeFileSync(join(dir, 'raw'), contentOf(shape))
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))
beforeEach(() => {
  b = bench()
})
afterEach(() => b.close())

/** A file in a folder of its own, so that nothing else lies beside it. */
function put(name: string, bytes: Buffer | string): string {
  const folder = join(dir, randomBytes(4).toString('hex'))
  mkdirSync(folder)
  writeFileSync(join(folder, name), bytes)
  return join(folder, name)
}

const one = { name: 'd.vmdk', capacity_bytes: 4 * GRAIN }
const same = () => assertSame(join(dir, 'raw'), 'raw', join(b.answerDir, 'vm.qcow2'), 'qcow2')
const left = () => list(b.attemptDir).filter((f) => f.startsWith('unpack/'))
const sha = (bytes: Buffer) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`

describe('an OVA that is packed whole', () => {
  test.each(['vm.ova', 'vm.ova.gz', 'vm.tar.gz'])('under the name %s', async (name) => {
    const path = put(name, gzipSync(makeOva({ disks: [{ ...one, bytes: vmdk }], mf: 'SHA256', dialect: 'gnu' })))
    const r = await b.run({ disks: [disk(path, 'ova', { checksum: sha(readFileSync(path)) })] })
    same()
    expect(r.warnings).toEqual([])
    expect(r.disks).toMatchObject([{ checksum_verified: true, actual_bytes: statSync(path).size }])
    expect(left()).toEqual([])
  })

  test("the manifest's checksum is of the packed file, the OVF's manifest of what is in it", async () => {
    const packed = gzipSync(makeOva({ disks: [{ ...one, bytes: vmdk }] }))
    await expect(
      b.run({
        disks: [disk(put('vm.ova', packed), 'ova', { checksum: sha(makeOva({ disks: [{ ...one, bytes: vmdk }] })) })],
      }),
    ).rejects.toMatchObject({ code: 'checksum-mismatch' })
    const files = [{ name: 'd.vmdk', content: vmdk }]
    const ovf = { name: 'vm.ovf', content: Buffer.from(makeOvf([{ ...one, href: 'd.vmdk' }])) }
    const mf = { name: 'vm.mf', content: Buffer.from(makeMf(files, 'SHA256').replace(/[0-9a-f]{4}\n/, '0000\n')) }
    await expect(
      b.run({ disks: [disk(put('vm.ova', gzipSync(makeTar([ovf, mf, ...files]))), 'ova')] }),
    ).rejects.toMatchObject({ code: 'checksum-mismatch' })
  })

  test('an OVA with a packed disk in it, packed again', async () => {
    const files = [
      { name: 'vm.ovf', content: Buffer.from(makeOvf([{ ...one, href: 'd.vmdk.gz', compression: 'gzip' }])) },
      { name: 'd.vmdk.gz', content: gzipSync(vmdk) },
    ]
    files.push({ name: 'vm.mf', content: Buffer.from(makeMf(files, 'SHA256')) })
    const r = await b.run({ disks: [disk(put('vm.ova', gzipSync(makeTar(files))), 'ova')] })
    same()
    expect(r.warnings).toEqual([])
    expect(left()).toEqual([])
  })
})

describe('packed disks', () => {
  test.each([
    ['named so, by the OVF', 'd.vmdk.gz', 'gzip'],
    ['named like a plain one', 'd.vmdk', 'gzip'],
    ['about which the OVF says nothing', 'd.vmdk', undefined],
  ])(
    'in an OVA and in an OVF folder, %s; the .mf has the sum of the packed bytes',
    async (_name, href, compression) => {
      const packed = gzipSync(vmdk)
      const ovf = Buffer.from(makeOvf([{ ...one, href, ...(compression ? { compression } : {}) }]))
      const files = [
        { name: 'vm.ovf', content: ovf },
        { name: href, content: packed },
      ]
      const mf = Buffer.from(makeMf(files, 'SHA512'))
      const ova = put('vm.ova', makeTar([...files, { name: 'vm.mf', content: mf }]))
      const folder = put('vm.ovf', ovf)
      writeFileSync(join(folder, '..', href), packed)
      writeFileSync(join(folder, '..', 'vm.mf'), mf)
      for (const source of [disk(ova, 'ova'), disk(folder, 'ovf')]) {
        const c = bench()
        try {
          const r = await c.run({ disks: [source] })
          assertSame(join(dir, 'raw'), 'raw', join(c.answerDir, 'vm.qcow2'), 'qcow2')
          expect([r.warnings, r.disks]).toMatchObject([[], [{ checksum_verified: true }]])
          expect(list(c.attemptDir).filter((f) => f.startsWith('unpack/'))).toEqual([])
        } finally {
          c.close()
        }
      }
      const wrong = Buffer.from(makeMf([files[0]!, { name: href, content: vmdk }], 'SHA512'))
      writeFileSync(join(folder, '..', 'vm.mf'), wrong)
      await expect(b.run({ disks: [disk(folder, 'ovf')] })).rejects.toMatchObject({ code: 'checksum-mismatch' })
      expect(b.answers()).toEqual(['vm.report.json'])
    },
  )

  test('said to be packed, but not, or by another tool', async () => {
    for (const [href, compression, bytes, code] of [
      ['d.vmdk', 'gzip', vmdk, 'bad-ovf'],
      ['d.vmdk', 'bzip2', vmdk, 'unsupported'],
      ['d.vmdk', undefined, Buffer.from('\xfd7zXZ\0 and so on', 'latin1'), 'unsupported'],
    ] as const) {
      const ovf = makeOvf([{ ...one, href, ...(compression ? { compression } : {}) }])
      const ova = makeTar([
        { name: 'vm.ovf', content: Buffer.from(ovf) },
        { name: href, content: bytes },
      ])
      await expect(b.run({ disks: [disk(put('vm.ova', ova), 'ova')] })).rejects.toMatchObject({ code })
    }
  })

  test.each([
    ['d.vmdk.gz', 'vmdk'],
    ['d.vmdk', 'vmdk'],
    ['d.raw.gz', 'raw'],
  ])('%s on its own, in several gzip members, with zeros behind', async (name, format) => {
    const bytes = format === 'raw' ? readFileSync(join(dir, 'raw')) : vmdk
    const half = bytes.length >> 1
    const path = put(
      name,
      Buffer.concat([gzipSync(bytes.subarray(0, half)), gzipSync(bytes.subarray(half)), Buffer.alloc(70_000)]),
    )
    await b.run({ disks: [disk(path, format)] })
    same()
    expect(b.progress.some((p) => p.phase === 'inspect' && p.bytes_done === statSync(path).size)).toBe(true)
  })

  test('a raw disk and a fixed VHD that merely begin like gzip are read as they are', async () => {
    const raw = randomBytes(GRAIN)
    raw.set([0x1f, 0x8b, 8])
    const path = put('d.raw', raw)
    await b.run({ disks: [disk(path, 'raw')] })
    assertSame(path, 'raw', join(b.answerDir, 'vm.qcow2'), 'qcow2')
    const vhd = join(path, '..', 'd.vhd')
    execFileSync('qemu-img', ['convert', '-O', 'vpc', '-o', 'subformat=fixed,force_size=on', '-f', 'raw', path, vhd])
    const c = bench()
    try {
      await c.run({ disks: [disk(vhd, 'vhd')] })
      assertSame(path, 'raw', join(c.answerDir, 'vm.qcow2'), 'qcow2')
    } finally {
      c.close()
    }
  })
})

describe('damaged and hostile', () => {
  test.each([
    ['cut off', (z: Buffer) => z.subarray(0, z.length - 9), 'truncated'],
    ['cut off in its header', (z: Buffer) => z.subarray(0, 5), 'truncated'],
    ['without its end', (z: Buffer) => z.subarray(0, z.length - 4), 'truncated'],
    ['with a wrong CRC', (z: Buffer) => flip(z, z.length - 8), 'bad-archive'],
    ['with a wrong length', (z: Buffer) => flip(z, z.length - 1), 'bad-archive'],
    ['with a flipped bit', (z: Buffer) => flip(z, z.length >> 1), 'bad-archive'],
    ['with rubbish behind', (z: Buffer) => Buffer.concat([z, Buffer.alloc(600, 'rubbish')]), 'bad-archive'],
  ])('%s', async (_name, harm, code) => {
    const path = put('d.vmdk.gz', harm(gzipSync(vmdk)))
    await expect(b.run({ disks: [disk(path, 'vmdk')] })).rejects.toMatchObject({ code, transient: false })
    expect(left()).toEqual([])
    expect(b.answers()).toEqual(['vm.report.json'])
  })

  test('a bomb of zeros ends at the largest disk that is accepted, and takes no space', async () => {
    const small = bench({ config: { convert: { max_virtual_size: 64 * 2 ** 20 } } })
    try {
      // 640 MiB of zeros in 640 KiB
      const member = gzipSync(Buffer.alloc(64 * 2 ** 20))
      const path = put('d.raw.gz', Buffer.concat(Array(10).fill(member)))
      await expect(small.run({ disks: [disk(path, 'raw')] })).rejects.toMatchObject({ code: 'virtual-size' })
      expect(list(small.attemptDir).filter((f) => f.startsWith('unpack/'))).toEqual([])
    } finally {
      small.close()
    }
  })

  test('what it unpacks to is guarded like any other image', async () => {
    const path = put('d.vmdk.gz', gzipSync(gzipSync(vmdk)))
    await expect(b.run({ disks: [disk(path, 'vmdk')] })).rejects.toMatchObject({
      message: expect.stringContaining('looks like a gzip'),
    })
    const link = makeStreamVmdk({
      grains: ['hole'],
      descriptor: `# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\nRW 128 FLAT "${join(dir, 'raw')}" 0\n`,
      header: (h) => void h.writeBigUInt64LE(0n, 12),
    })
    await expect(b.run({ disks: [disk(put('d.vmdk.gz', gzipSync(link)), 'vmdk')] })).rejects.toMatchObject({
      code: 'reference-refused',
    })
  })
})

describe('unpacked once', () => {
  const later = (dead: boolean) => {
    const c = bench({ dir: b.dir, epoch: 2 })
    return { c, more: { epoch: 2, earlierAttempts: [{ dir: b.attemptDir, epoch: 1, owner: 'me', dead }] } }
  }

  /** unpacked and inspected, but not copied */
  const refusedLater = (path: string) => ({
    disks: [disk(path, 'vmdk')],
    convert: { path: 'zero-copy' },
    compress: false,
  })

  test.each([true, false])('a retry takes over what was unpacked (earlier attempt dead: %s)', async (dead) => {
    const path = put('d.vmdk.gz', gzipSync(vmdk))
    await expect(b.run(refusedLater(path))).rejects.toMatchObject({ code: 'path-unavailable' })
    expect(left()).toEqual(['unpack/0.vmdk'])
    const { c, more } = later(dead)
    await c.run({ disks: [disk(path, 'vmdk')] }, more)
    expect(c.logs.join('')).toMatch(dead ? /unpack 0.vmdk: took over.*moved/ : /unpack 0.vmdk: took over.*copied/)
    assertSame(join(dir, 'raw'), 'raw', join(c.answerDir, 'vm.qcow2'), 'qcow2')
  })

  test.each([
    ['inspect', /unpack 0.vmdk: \d+ bytes of .* unpacked in/],
    ['copy', /unpack 0.vmdk: took over.*moved/],
  ])('killed in %s', async (phase, says) => {
    const path = put('d.vmdk.gz', gzipSync(vmdk))
    const worker = join(import.meta.dirname, 'unpack.worker.process.ts')
    expect(spawnSync(process.execPath, [worker, b.dir, path, phase], { stdio: 'pipe' }).signal).toBe('SIGKILL')
    const { c, more } = later(true)
    await c.run({ disks: [disk(path, 'vmdk')] }, more)
    expect(c.logs.join('')).toMatch(says)
    expect(c.logs.join('').match(/^unpack/gm)).toHaveLength(1)
    assertSame(join(dir, 'raw'), 'raw', join(c.answerDir, 'vm.qcow2'), 'qcow2')
  })

  test('but not of another file', async () => {
    const path = put('d.vmdk.gz', gzipSync(vmdk))
    await expect(b.run(refusedLater(path))).rejects.toMatchObject({ code: 'path-unavailable' })
    const other = put('d.vmdk.gz', gzipSync(vmdk))
    const { c, more } = later(true)
    await c.run({ disks: [disk(other, 'vmdk')] }, more)
    expect(c.logs.join('')).toMatch(/unpack 0.vmdk: \d+ bytes of .* unpacked in/)
  })

  test('cancelled in the middle', async () => {
    const noise = randomBytes(4 * 2 ** 20)
    const path = put('d.raw.gz', Buffer.concat(Array(24).fill(gzipSync(noise, { level: 1 }))))
    const run = b.run({ disks: [disk(path, 'raw')] }).catch((e: unknown) => e)
    await until('the first bytes', () => b.progress.some((p) => (p.bytes_done ?? 0) > 0))
    b.abort.abort(new Error('enough'))
    expect(String(await run)).toContain('enough')
    expect(left()).toEqual([])
    expect(existsSync(join(b.attemptDir, 'copy'))).toBe(false)
  })
})

function flip(z: Buffer, at: number): Buffer {
  const out = Buffer.from(z)
  out[at] = out[at]! ^ 1
  return out
}
