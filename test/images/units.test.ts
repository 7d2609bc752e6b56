/** Details of the readers and of opening that no tool here writes or does. */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import {
  bufferSource,
  listTar,
  parseMf,
  parseOvf,
  parseVhd,
  parseVmdk,
  parseVmdkDescriptor,
} from '../../src/images/formats/index.ts'
import {
  allows,
  convertImage,
  graphBuilder,
  guardImage,
  imageInfo,
  openBeneath,
  type SourceFormat,
  wholeFile,
} from '../../src/images/index.ts'
import { progressReader } from '../../src/images/qemu-img.ts'

let dir: string
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'vmspool-images-'))
})
afterEach(() => rmSync(dir, { recursive: true, force: true }))

const qemu = (...args: string[]) => execFileSync('qemu-img', args, { stdio: ['ignore', 'pipe', 'pipe'] })

/** Guards a file, then lets `meddle` change it, then converts what the guard accepted. */
async function convertAfter(path: string, format: SourceFormat, meddle: () => void, out: string): Promise<void> {
  const opened = [await openBeneath(path, ['/'])]
  const builder = graphBuilder(dir)
  try {
    const window = wholeFile(opened[0]!, async (f) => void opened.push(f))
    const image = await guardImage(window, format, { maxVirtualSize: 2 ** 40 })
    meddle()
    const graph = { node: await image.node(builder), fds: builder.fds() }
    expect((await imageInfo(graph, {})).virtual_size).toBe(image.virtual_size)
    await convertImage(
      {
        graph,
        output: out,
        format: 'raw',
        compress: false,
        compression_type: 'zlib',
        threads: 2,
        onProgress: () => undefined,
      },
      {},
    )
  } finally {
    await builder.close()
    await Promise.all(opened.map((f) => f.close()))
  }
}

describe('what was checked is what is read', () => {
  test('a VMDK header exchanged after the check for one that names a host file', async () => {
    const secret = join(dir, 'shadow')
    writeFileSync(secret, Buffer.alloc(65536, 'SECRET'))
    const raw = join(dir, 'raw')
    writeFileSync(raw, randomBytes(65536))
    const good = join(dir, 'good.vmdk')
    qemu('convert', '-f', 'raw', '-O', 'vmdk', raw, good)
    const bad = readFileSync(good)
    bad.writeBigUInt64LE(0n, 12)
    bad.fill(0, 512, 512 + 20 * 512)
    bad.write(
      `# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="monolithicFlat"\n\n# Extent\nRW 128 FLAT "${secret}" 0\n`,
      512,
      'latin1',
    )
    const out = join(dir, 'out')
    await convertAfter(good, 'vmdk', () => writeFileSync(good, bad, { flag: 'r+' }), out)
    expect(readFileSync(out)).toEqual(readFileSync(raw))
    // and the exchanged file does leak
    qemu('convert', '-f', 'vmdk', '-O', 'raw', good, out)
    expect(readFileSync(out)).toEqual(readFileSync(secret))
  })

  test('a folder and a file exchanged for links after they were opened', async () => {
    const inbox = join(dir, 'inbox')
    mkdirSync(inbox)
    writeFileSync(join(dir, 'shadow'), Buffer.alloc(512, 's'))
    writeFileSync(join(inbox, 'd.raw'), Buffer.alloc(512, 'm'))
    const out = join(dir, 'out')
    const meddle = () => {
      renameSync(inbox, `${inbox}.away`)
      mkdirSync(inbox)
      symlinkSync('../shadow', join(inbox, 'd.raw'))
    }
    await convertAfter(join(inbox, 'd.raw'), 'raw', meddle, out)
    expect(readFileSync(out, 'utf8')).toBe('m'.repeat(512))
  })
})

describe('VMDK', () => {
  test('a descriptor of flat, sparse and zero extents with offsets, odd spacing and CRLF', async () => {
    const a = randomBytes(64 * 512)
    const b = randomBytes(128 * 512)
    writeFileSync(join(dir, 'a.bin'), Buffer.concat([Buffer.alloc(7 * 512, 'x'), a]))
    writeFileSync(join(dir, 'b.raw'), b)
    qemu(
      'convert',
      '-f',
      'raw',
      '-O',
      'vmdk',
      '-o',
      'subformat=monolithicSparse',
      join(dir, 'b.raw'),
      join(dir, 'b.vmdk'),
    )
    const text =
      '# Disk DescriptorFile\r\nversion=1\r\nCID=1\r\nparentCID=FFFFFFFF\r\ncreateType="custom"\r\n\r\nRW  64 FLAT\t"a.bin" 7\r\n  RW 32 ZERO\r\n\r\nRDONLY 128 SPARSE "b.vmdk"\r\nRW 1 VMFS "a.bin" 0\r\n'
    const image = join(dir, 'd.vmdk')
    writeFileSync(image, text)
    const out = join(dir, 'out')
    await convertAfter(image, 'vmdk', () => undefined, out)
    const want = Buffer.concat([a, Buffer.alloc(32 * 512), b, Buffer.alloc(512, 'x')])
    expect(readFileSync(out).equals(want)).toBe(true)
  })

  test('a grain directory that only the footer knows', async () => {
    const raw = join(dir, 'raw')
    writeFileSync(raw, Buffer.concat([randomBytes(200_000), Buffer.alloc(1_000_000)]))
    truncateSync(raw, 1_200_128)
    const image = join(dir, 'so.vmdk')
    qemu('convert', '-f', 'raw', '-O', 'vmdk', '-o', 'subformat=streamOptimized', raw, image)
    const bytes = readFileSync(image)
    const gd = bytes.readBigUInt64LE(56)
    // footer marker, footer, end-of-stream marker behind what is there
    const footer = Buffer.from(bytes.subarray(0, 512))
    footer.writeBigUInt64LE(gd, 56)
    const marker = Buffer.alloc(512)
    marker.writeBigUInt64LE(1n, 0)
    marker.writeUInt32LE(3, 12)
    bytes.writeBigUInt64LE(0xffffffffffffffffn, 56)
    const end = bytes.length % 512 === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(512 - (bytes.length % 512))])
    const body = end.subarray(0, end.length)
    const whole = Buffer.concat([body, marker, footer, Buffer.alloc(512)])
    writeFileSync(image, whole)
    const parsed = await parseVmdk(bufferSource(whole))
    expect(parsed).toMatchObject({
      kind: 'sparse',
      header: { gd_from: 'footer', gd_offset: Number(gd) * 512, compressed: true },
    })
    const out = join(dir, 'out')
    await convertAfter(image, 'vmdk', () => undefined, out)
    expect(readFileSync(out).subarray(0, 1_200_128).equals(readFileSync(raw))).toBe(true)
    await expect(parseVmdk(bufferSource(whole.subarray(0, whole.length - 1024)))).rejects.toMatchObject({
      code: 'truncated',
    })
  })

  test('a descriptor that promises more than is allowed', () => {
    const many = `# Disk DescriptorFile\n${'RW 1 ZERO\n'.repeat(4097)}`
    expect(() => parseVmdkDescriptor(many)).toThrow('more than 4096 extents')
    expect(() => parseVmdkDescriptor('RW 99999999999999999 FLAT "x" 0')).toThrow('cannot be read')
    expect(() => parseVmdkDescriptor('RW 9999999999999999 FLAT "x" 0')).toThrow('beyond any real disk')
    expect(() => parseVmdkDescriptor('RW x FLAT "x" 0')).toThrow('cannot be read')
  })
})

test('a VHD of a writer that qemu does not know keeps its last sectors', async () => {
  const raw = join(dir, 'raw')
  writeFileSync(raw, randomBytes(5 * 1024 * 1024 + 512))
  const image = join(dir, 'd.vhd')
  qemu('convert', '-f', 'raw', '-O', 'vpc', '-o', 'subformat=fixed,force_size=on', raw, image)
  const bytes = readFileSync(image)
  const foot = bytes.subarray(bytes.length - 512)
  foot.write('vbox', 28, 'latin1')
  foot.writeUInt16BE(10, 56) // cylinders, heads, sectors: what fits below the size
  foot[58] = 16
  foot[59] = 63
  foot.writeUInt32BE(0, 64)
  foot.writeUInt32BE(~foot.reduce((n, b) => n + b, 0) >>> 0, 64)
  writeFileSync(image, bytes)
  expect((await parseVhd(bufferSource(bytes))).chs_size).toBeLessThan(5 * 1024 * 1024 + 512)
  const out = join(dir, 'out')
  await convertAfter(image, 'vhd', () => undefined, out)
  expect(readFileSync(out).equals(readFileSync(raw))).toBe(true)
})

describe('tar', () => {
  const header = (name: string, size: bigint, type = '0') => {
    const h = Buffer.alloc(512)
    h.write(name, 0)
    h.write('0000644\0', 100)
    if (size >= 8n ** 11n) {
      h[124] = 0x80
      h.writeBigUInt64BE(size, 128)
    } else h.write(`${size.toString(8).padStart(11, '0')}\0`, 124)
    h.write('        ', 148)
    h.write(type, 156)
    h.write('ustar  \0', 257)
    h.write(
      `${h
        .reduce((n, b) => n + b, 0)
        .toString(8)
        .padStart(6, '0')}\0 `,
      148,
    )
    return h
  }
  const sparse = (parts: { at: number; bytes: Buffer }[], size: number) => ({
    size,
    read: async (offset: number, length: number) => {
      const out = Buffer.alloc(Math.max(0, Math.min(length, size - offset)))
      for (const p of parts) {
        if (offset < p.at + p.bytes.length && p.at < offset + out.length)
          p.bytes.copy(out, Math.max(0, p.at - offset), Math.max(0, offset - p.at))
      }
      return out
    },
  })

  test('a member over 8 GiB in base-256, and the one behind it', async () => {
    const big = 20n * 2n ** 30n
    const second = 512 + Number(big)
    const source = sparse(
      [
        { at: 0, bytes: header('big.vmdk', big) },
        { at: second, bytes: header('b', 3n) },
      ],
      second + 1024,
    )
    expect(await listTar(source)).toEqual([
      { name: 'big.vmdk', offset: 512, size: Number(big), type: 'file' },
      { name: 'b', offset: second + 512, size: 3, type: 'file' },
    ])
    await expect(listTar(sparse([{ at: 0, bytes: header('big.vmdk', big) }], 4096))).rejects.toMatchObject({
      code: 'truncated',
    })
  })

  test('sizes that are negative or beyond numbers, sparse members', async () => {
    const negative = header('x', 8n ** 11n)
    negative.fill(0xff, 124, 136)
    negative.write('        ', 148)
    negative.write(
      `${negative
        .reduce((n, b) => n + b, 0)
        .toString(8)
        .padStart(6, '0')}\0 `,
      148,
    )
    await expect(listTar(bufferSource(Buffer.concat([negative, Buffer.alloc(1024)])))).rejects.toMatchObject({
      code: 'bad-archive',
    })
    await expect(
      listTar(bufferSource(Buffer.concat([header('x', 0n, 'S'), Buffer.alloc(1024)]))),
    ).rejects.toMatchObject({ code: 'bad-archive' })
  })
})

test('OVF capacities and manifests', () => {
  const ovf = (capacity: string, units?: string) =>
    parseOvf(
      `<Envelope><References><File id="f" href="a.vmdk" xmlns=""/></References><DiskSection><Disk diskId="d" fileRef="f" capacity="${capacity}"${units ? ` capacityAllocationUnits="${units}"` : ''}/></DiskSection></Envelope>`,
    ).disks[0]!.capacity
  expect(ovf('512')).toBe(512)
  expect(ovf('2', 'byte * 2^30')).toBe(2 ** 31)
  expect(ovf('2', 'byte * 10^9')).toBe(2e9)
  expect(ovf('3', 'MegaBytes')).toBe(3 * 2 ** 20)
  expect(ovf('${'.concat('disk}'), 'byte')).toBeUndefined()
  expect(ovf('1', 'furlongs')).toBeUndefined()
  expect(() => parseOvf('<!DOCTYPE x SYSTEM "file:///etc/passwd"><Envelope/>')).toThrow('document type or entities')
  const mf = parseMf(
    `SHA1(a b.ovf)= ${'A'.repeat(40)}\r\nSHA-512(./d)=${'b'.repeat(128)}\nSHA1(d)= ${'c'.repeat(40)}\n# made by hand\nSHA256(x)= abc\n`,
  )
  expect([...mf.digests]).toEqual([
    ['a b.ovf', { algorithm: 'sha1', hex: 'a'.repeat(40) }],
    ['d', { algorithm: 'sha512', hex: 'b'.repeat(128) }],
  ])
  expect(mf.unread).toEqual(['# made by hand', 'SHA256(x)= abc'])
  expect(() => parseMf(`SHA1(a)= ${'a'.repeat(40)}\nSHA1(a)= ${'b'.repeat(40)}`)).toThrow('two different sha1 sums')
})

test('file modes as POSIX reads them: the first class that fits decides', () => {
  const who = { uid: 10, gid: 20, groups: [30] }
  expect(allows({ uid: 10, gid: 1, mode: 0o077 }, who, 4)).toBe(false)
  expect(allows({ uid: 1, gid: 20, mode: 0o707 }, who, 4)).toBe(false)
  expect(allows({ uid: 1, gid: 30, mode: 0o040 }, who, 4)).toBe(true)
  expect(allows({ uid: 1, gid: 1, mode: 0o004 }, who, 4)).toBe(true)
  expect(allows({ uid: 1, gid: 1, mode: 0o774 }, who, 1)).toBe(false)
  expect(allows({ uid: 1, gid: 1, mode: 0 }, { uid: 0, gid: 0, groups: [] }, 4)).toBe(true)
})

test('progress in pieces of any size', () => {
  const text = '    (0.00/100%)\r    (12.34/100%)\r    (100.00/100%)\r\n'
  for (const size of [1, 3, 7, 100]) {
    const seen: number[] = []
    const feed = progressReader((p) => seen.push(p))
    for (let i = 0; i < text.length; i += size) feed(text.slice(i, i + size))
    expect(seen).toEqual([0, 12.34, 100])
  }
})
