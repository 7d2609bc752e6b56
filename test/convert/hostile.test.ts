/**
 * Every hostile image that leaked a host file through a plain `qemu-img convert`: the job fails with a clear error, and not one byte of
 * the secret is in anything that is left. Each case that qemu would fall for is first shown to leak without the guard.
 */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  copyFileSync,
  linkSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { JobError } from '../../src/jobs/types.ts'
import { type Bench, bench, disk, list, qemuImg, tempFolder } from './harness.ts'

const SECRET = Buffer.from(`TOP-SECRET-${randomBytes(24).toString('hex')}`)
let dir: string
let secret: string
let inbox: string
let b: Bench

beforeEach(() => {
  dir = tempFolder()
  inbox = join(dir, 'inbox')
  mkdirSync(inbox)
  mkdirSync(join(dir, 'host'))
  secret = join(dir, 'host', 'shadow')
  writeFileSync(secret, Buffer.concat([SECRET, Buffer.alloc(64 * 1024 - SECRET.length, 'x')]))
  b = bench()
})
afterEach(() => {
  b.close()
  rmSync(dir, { recursive: true, force: true })
})

/** The bytes of the secret, in clear, in anything below a folder? Images are also looked at as the disks they are. */
function leaks(folder: string): string[] {
  const found: string[] = []
  for (const f of list(folder)) {
    const path = join(folder, f)
    if (readFileSync(path).includes(SECRET)) found.push(f)
    if (!f.endsWith('.qcow2')) continue
    const flat = `${path}.flat`
    try {
      qemuImg('convert', '-f', 'qcow2', '-O', 'raw', path, flat)
      if (readFileSync(flat).includes(SECRET)) found.push(`${f} (as a disk)`)
    } finally {
      rmSync(flat, { force: true })
    }
  }
  return found
}

/** Shows that a plain qemu-img, told the format, would have copied the secret. */
function plainQemuLeaks(image: string, args: string[]): boolean {
  const out = join(dir, 'plain.raw')
  try {
    qemuImg('convert', ...args, '-O', 'raw', image, out)
    return readFileSync(out).includes(SECRET)
  } catch {
    return false
  } finally {
    rmSync(out, { force: true })
  }
}

async function refusedWith(
  code: string | RegExp,
  disks: unknown[],
  o?: Parameters<Bench['run']>[1],
): Promise<JobError> {
  const error = await b.run({ disks }, o).then(
    (r) => {
      throw new Error(`the job succeeded: ${r.summary}`)
    },
    (e: JobError) => e,
  )
  expect(error.code).toMatch(code)
  expect(error.transient).toBe(false)
  expect(error.message).toMatch(/\.$/)
  expect(leaks(b.dir)).toEqual([])
  expect(b.answers()).toEqual(['vm.report.json'])
  expect(b.report().pipeline.success).toBe(false)
  expect(readFileSync(join(b.answerDir, 'vm.report.json')).includes(SECRET)).toBe(false)
  expect(b.logs.join('')).not.toContain(SECRET.toString())
  return error
}

const descriptor = (...extents: string[]) =>
  `# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="monolithicFlat"\n\n# Extent description\n${extents.join('\n')}\n\n# The Disk Data Base\nddb.adapterType = "ide"\n`

/** A binary sparse header whose fields a test sets; descriptor at sector 1. */
function kdmv(text: string, capacity: number): Buffer {
  const file = Buffer.alloc(64 * 1024)
  file.write('KDMV', 0, 'latin1')
  file.writeUInt32LE(1, 4)
  file.writeUInt32LE(3, 8)
  file.writeBigUInt64LE(BigInt(capacity), 12)
  file.writeBigUInt64LE(128n, 20)
  file.writeBigUInt64LE(1n, 28)
  file.writeBigUInt64LE(20n, 36)
  file.writeUInt32LE(512, 44)
  file.writeBigUInt64LE(0n, 48)
  file.writeBigUInt64LE(26n, 56)
  file.writeBigUInt64LE(128n, 64)
  file.write('\n \r\n', 73, 'latin1')
  file.write(text, 512, 'latin1')
  return file
}

describe('qcow2', () => {
  test('a raw disk whose content is a qcow2 header with a backing file stays a raw disk', async () => {
    const image = join(inbox, 'disk.raw')
    qemuImg('create', '-q', '-f', 'qcow2', '-u', '-b', secret, '-F', 'raw', image, '64k')
    expect(plainQemuLeaks(image, [])).toBe(true)
    await b.run({ disks: [disk(image, 'raw')] })
    expect(leaks(b.answerDir)).toEqual([])
    qemuImg('compare', '-f', 'raw', '-F', 'qcow2', image, join(b.answerDir, 'vm.qcow2'))
  })

  test.each(['absolute', 'relative'])('a backing file, %s', async (how) => {
    const image = join(inbox, 'disk.qcow2')
    qemuImg(
      'create',
      '-q',
      '-f',
      'qcow2',
      '-u',
      '-b',
      how === 'absolute' ? secret : '../host/shadow',
      '-F',
      'raw',
      image,
      '64k',
    )
    expect(plainQemuLeaks(image, ['-f', 'qcow2'])).toBe(true)
    const e = await refusedWith('has-backing-file', [disk(image, 'qcow2')])
    expect(e.message).toContain('host/shadow')
  })

  test('a json: backing name', async () => {
    const image = join(inbox, 'disk.qcow2')
    qemuImg(
      'create',
      '-q',
      '-f',
      'qcow2',
      '-u',
      '-b',
      `json:{"driver":"raw","file":{"driver":"file","filename":"${secret}"}}`,
      '-F',
      'raw',
      image,
      '64k',
    )
    expect(plainQemuLeaks(image, ['-f', 'qcow2'])).toBe(true)
    await refusedWith('has-backing-file', [disk(image, 'qcow2')])
  })

  test('an external data file', async () => {
    const image = join(inbox, 'disk.qcow2')
    const away = join(dir, 'away')
    mkdirSync(away)
    qemuImg('create', '-q', '-f', 'qcow2', '-o', `data_file=${join(away, 'd')},data_file_raw=on`, image, '64k')
    copyFileSync(secret, join(away, 'd'))
    expect(plainQemuLeaks(image, ['-f', 'qcow2'])).toBe(true)
    await refusedWith('has-data-file', [disk(image, 'qcow2')])
  })

  test('a backing file written into the header after the check is not seen: the checked header is what qemu gets', async () => {
    const { guardImage, graphBuilder, imageInfo, openBeneath, wholeFile, convertImage } = await import(
      '../../src/images/index.ts'
    )
    const image = join(inbox, 'disk.qcow2')
    const bad = join(inbox, 'bad.qcow2')
    qemuImg('create', '-q', '-f', 'qcow2', image, '64k')
    qemuImg('create', '-q', '-f', 'qcow2', '-u', '-b', secret, '-F', 'raw', bad, '64k')
    const file = await openBeneath(image, ['/'])
    const guarded = await guardImage(
      wholeFile(file, async () => undefined),
      'qcow2',
      { maxVirtualSize: 2 ** 40 },
    )
    const fd = readFileSync(bad)
    writeFileSync(image, fd, { flag: 'r+' }) // the same inode, as its owner can write to it
    expect(plainQemuLeaks(image, ['-f', 'qcow2'])).toBe(true)
    const builder = graphBuilder(dir)
    try {
      const graph = { node: await guarded.node(builder), fds: builder.fds() }
      expect((await imageInfo(graph, {})).virtual_size).toBe(64 * 1024)
      await convertImage(
        {
          graph,
          output: join(b.answerDir, 'x.raw'),
          format: 'raw',
          compress: false,
          compression_type: 'zlib',
          threads: 1,
          onProgress: () => undefined,
        },
        {},
      )
      expect(leaks(b.answerDir)).toEqual([])
    } finally {
      await builder.close()
      await file.close()
    }
  })

  test('6 MiB that claim 1 PiB', async () => {
    const image = join(inbox, 'disk.qcow2')
    qemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=2M', image, '64T')
    const bytes = readFileSync(image)
    bytes.writeBigUInt64BE(2n ** 50n, 24)
    writeFileSync(image, bytes)
    const e = await refusedWith('virtual-size', [disk(image, 'qcow2')])
    expect(e.message).toContain(String(2 ** 50))
  })

  test('encryption', async () => {
    const image = join(inbox, 'disk.qcow2')
    qemuImg(
      'create',
      '-q',
      '-f',
      'qcow2',
      '--object',
      'secret,id=s,data=pw',
      '-o',
      // not luks: qemu-img times its key derivation, which fails on a busy machine
      'encrypt.format=aes,encrypt.key-secret=s',
      image,
      '1M',
    )
    await refusedWith('encrypted', [disk(image, 'qcow2')])
  })
})

describe('vmdk', () => {
  test.each([
    ['absolute', () => secret],
    ['upwards', () => '../host/shadow'],
    ['json:', () => `json:{'driver':'file','filename':'${secret}'}`],
    ['protocol', () => `file:${secret}`],
    ['backslash', () => '..\\host\\shadow'],
  ])('a FLAT extent, %s', async (_how, name) => {
    const image = join(inbox, 'disk.vmdk')
    writeFileSync(image, descriptor(`RW 128 FLAT "${name()}" 0`))
    if (_how === 'absolute' || _how === 'upwards') expect(plainQemuLeaks(image, ['-f', 'vmdk'])).toBe(true)
    await refusedWith(/reference-refused|not-found/, [disk(image, 'vmdk')])
  })

  test('a FLAT extent that is a link in the same folder', async () => {
    const image = join(inbox, 'disk.vmdk')
    symlinkSync(secret, join(inbox, 'flat.vmdk'))
    writeFileSync(image, descriptor('RW 128 FLAT "flat.vmdk" 0'))
    expect(plainQemuLeaks(image, ['-f', 'vmdk'])).toBe(true)
    await refusedWith('link-refused', [disk(image, 'vmdk')])
  })

  test('a second extent that is somewhere else', async () => {
    const image = join(inbox, 'disk.vmdk')
    writeFileSync(join(inbox, 'flat.vmdk'), Buffer.alloc(65536))
    writeFileSync(image, descriptor('RW 128 FLAT "flat.vmdk" 0', `RW 128 FLAT "${secret}" 0`))
    expect(plainQemuLeaks(image, ['-f', 'vmdk'])).toBe(true)
    await refusedWith('reference-refused', [disk(image, 'vmdk')])
  })

  test('a binary header with capacity 0 and an embedded FLAT descriptor', async () => {
    const image = join(inbox, 'disk.vmdk')
    writeFileSync(image, kdmv(descriptor(`RW 128 FLAT "${secret}" 0`), 0))
    expect(plainQemuLeaks(image, ['-f', 'vmdk'])).toBe(true)
    await refusedWith('reference-refused', [disk(image, 'vmdk')])
  })

  test('a sparse extent that is itself such a binary header', async () => {
    const image = join(inbox, 'disk.vmdk')
    writeFileSync(join(inbox, 's001.vmdk'), kdmv(descriptor(`RW 128 FLAT "${secret}" 0`), 0))
    writeFileSync(image, descriptor('RW 128 SPARSE "s001.vmdk"'))
    await refusedWith('reference-refused', [disk(image, 'vmdk')])
  })

  test.each([
    ['embedded', 'parentCID=12121212\nparentFileNameHint="SECRET"\n'],
    ['hidden after a NUL', '\0\nparentFileNameHint="SECRET"\n'],
    ['by id alone', 'parentCID=12121212\n'],
  ])('a parent, %s', async (_how, text) => {
    const image = join(inbox, 'disk.vmdk')
    qemuImg('create', '-q', '-f', 'vmdk', image, '64k')
    const bytes = readFileSync(image)
    const body = text.startsWith('\0')
      ? `${descriptor()}${text}`
      : `# Disk DescriptorFile\nversion=1\nCID=1\n${text}createType="monolithicSparse"\n`
    bytes.fill(0, 512, 512 + 20 * 512)
    bytes.write(body.replace('SECRET', secret), 512, 'latin1')
    writeFileSync(image, bytes)
    await refusedWith('has-parent', [disk(image, 'vmdk')])
  })

  test('a device, a FIFO and a folder as extents', async () => {
    const image = join(inbox, 'disk.vmdk')
    execFileSync('mkfifo', [join(inbox, 'fifo')])
    mkdirSync(join(inbox, 'folder'))
    for (const name of ['fifo', 'folder']) {
      writeFileSync(image, descriptor(`RW 128 FLAT "${name}" 0`))
      await refusedWith('not-a-file', [disk(image, 'vmdk')])
    }
  })

  test('a flat extent cut off', async () => {
    const image = join(inbox, 'disk.vmdk')
    qemuImg('create', '-q', '-f', 'vmdk', '-o', 'subformat=monolithicFlat', image, '1M')
    truncateSync(join(inbox, 'disk-flat.vmdk'), 1024 * 1024 - 512)
    await refusedWith('truncated', [disk(image, 'vmdk')])
  })
})

describe('differencing disks of other formats', () => {
  test('vdi', async () => {
    const image = join(inbox, 'disk.vdi')
    qemuImg('create', '-q', '-f', 'vdi', image, '1M')
    const bytes = readFileSync(image)
    bytes.writeUInt32LE(4, 0x4c)
    writeFileSync(image, bytes)
    await refusedWith('has-parent', [disk(image, 'vdi')])
  })

  test('vhd', async () => {
    const image = join(inbox, 'disk.vhd')
    qemuImg('create', '-q', '-f', 'vpc', image, '1M')
    const bytes = readFileSync(image)
    for (const at of [0, bytes.length - 512]) {
      bytes.writeUInt32BE(4, at + 60)
      bytes.writeUInt32BE(0, at + 64)
      let sum = 0
      for (let i = 0; i < 512; i++) sum += bytes[at + i]!
      bytes.writeUInt32BE(~sum >>> 0, at + 64)
    }
    writeFileSync(image, bytes)
    await refusedWith('has-parent', [disk(image, 'vhd')])
  })

  test('vhdx', async () => {
    const image = join(inbox, 'disk.vhdx')
    qemuImg('create', '-q', '-f', 'vhdx', image, '1M')
    const bytes = readFileSync(image)
    const params = Buffer.from('3767a1ca36fa434db3b633f0aa44e76b', 'hex')
    const entry = bytes.indexOf(params)
    expect(entry).toBeGreaterThan(0)
    const table = entry - 32 - ((entry - 32) % 65536)
    const at = table + bytes.readUInt32LE(entry + 16)
    bytes.writeUInt32LE(bytes.readUInt32LE(at + 4) | 2, at + 4)
    writeFileSync(image, bytes)
    await refusedWith('has-parent', [disk(image, 'vhdx')])
  })
})

describe('paths', () => {
  test('a link as the disk, and a link on the way', async () => {
    const image = join(inbox, 'disk.raw')
    symlinkSync(secret, image)
    await refusedWith('link-refused', [disk(image, 'raw')])
    symlinkSync(join(dir, 'host'), join(inbox, 'h'))
    await refusedWith('link-refused', [disk(join(inbox, 'h', 'shadow'), 'raw')])
  })

  test('outside the import roots, also by dots', async () => {
    const c = bench({ config: { intake: { import_roots: [inbox] } } })
    try {
      for (const path of [secret, `${inbox}/../host/shadow`]) {
        await expect(c.run({ disks: [disk(path, 'raw')] })).rejects.toMatchObject({ code: 'outside-import-roots' })
      }
      renameSync(secret, join(inbox, 'mine.raw'))
      await expect(c.run({ disks: [disk(join(inbox, 'mine.raw'), 'raw')] })).resolves.toBeDefined()
    } finally {
      c.close()
    }
  })

  test('a device and a FIFO are not opened', async () => {
    const fifo = join(inbox, 'disk.raw')
    execFileSync('mkfifo', [fifo])
    await refusedWith('not-a-file', [disk(fifo, 'raw')])
    await refusedWith('not-a-file', [disk('/dev/zero', 'raw')])
    await refusedWith('not-a-file', [disk(inbox, 'raw')])
    await refusedWith('not-found', [disk(join(inbox, 'nothing'), 'raw')])
  })

  test('an empty file', async () => {
    writeFileSync(join(inbox, 'disk.raw'), '')
    await refusedWith('empty', [disk(join(inbox, 'disk.raw'), 'raw')])
  })
})

describe.runIf(process.geteuid?.() === 0)('what the submitter may not read', () => {
  const nobody = { drop: { file: 'job.json', uid: 65534, gid: 65534, at: '' } }

  test('a file, a folder on the way, an extent; the same readable ones are converted', async () => {
    b.close()
    b = bench({ config: { intake: { import_roots: [dir] } } }) // folders above are the test run's own
    await expect(b.run({ disks: [disk(secret, 'raw')] }, nobody)).resolves.toBeDefined()
    b.close()
    b = bench({ config: { intake: { import_roots: [dir] } } })
    execFileSync('chmod', ['600', secret])
    await refusedWith('submitter-permission', [disk(secret, 'raw')], nobody)
    execFileSync('chmod', ['644', secret])
    execFileSync('chmod', ['700', join(dir, 'host')])
    await refusedWith('submitter-permission', [disk(secret, 'raw')], nobody)

    const image = join(inbox, 'disk.vmdk')
    writeFileSync(image, descriptor('RW 128 FLAT "flat.vmdk" 0'))
    linkSync(secret, join(inbox, 'flat.vmdk'))
    execFileSync('chmod', ['640', secret])
    await refusedWith('submitter-permission', [disk(image, 'vmdk')], nobody)
    // by its group, which is enough
    execFileSync('chgrp', ['65534', secret])
    await expect(b.run({ disks: [disk(image, 'vmdk')] }, nobody)).resolves.toBeDefined()
  })
})
