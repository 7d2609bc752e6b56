/** The two fast paths through the job, each result held against what a reader of its own must see. */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type LoopFs, loopFs } from '../support/loop-fs.ts'
import { makeOva } from '../support/ova-maker.ts'
import { contentOf, type Grain, makeStreamVmdk, type VmdkShape, writeStreamVmdk } from '../support/vmdk-maker.ts'
import { assertSame, type Bench, bench, disk, qemuImg, tempFolder } from './harness.ts'

const GRAIN = 65536
const MiB = 1024 * 1024
let dir: string
let n = 0
beforeAll(() => {
  dir = tempFolder()
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

/** Compressible, and different for each number. */
const text = (i: number, name = 'disk'): Buffer =>
  Buffer.alloc(GRAIN, `grain ${i} of ${name}, ${createHash('md5').update(`${name} ${i}`).digest('hex')}\n`)

interface Result {
  path: string
  path_reason: string
  grains?: string
  transfer?: string
}

/** Runs a job in a fresh attempt, compares its output with `raw`, checks it, and gives what the report says of the disk. */
async function converted(b: Bench, vmdk: string, raw: string, manifest: Record<string, unknown>): Promise<Result> {
  const format = (manifest.output as { format?: string } | undefined)?.format ?? 'qcow2'
  const o = await b.run({ disks: [disk(vmdk, 'vmdk')], ...manifest })
  const out = join(b.answerDir, `vm.${format}`)
  assertSame(raw, 'raw', out, format)
  if (format === 'qcow2') {
    const check = JSON.parse(qemuImg('check', '--output=json', '-f', 'qcow2', out)) as Record<string, number>
    expect(check.leaks ?? 0).toBe(0)
    expect(check['check-errors']).toBe(0)
  }
  return (o.disks as Result[])[0]!
}

function write(o: VmdkShape & { grains: readonly Grain[] }, at = dir): { vmdk: string; raw: string } {
  const vmdk = join(at, `${++n}.vmdk`)
  const raw = join(dir, `${n}.raw`)
  writeFileSync(vmdk, makeStreamVmdk(o))
  writeFileSync(raw, contentOf(o))
  return { vmdk, raw }
}

const disks: Record<string, VmdkShape & { grains: Grain[] }> = {
  'holes, zeros and data': { grains: ['hole', text(1), 'zero', text(3), Buffer.alloc(GRAIN), text(5)] },
  'the directory in a footer': { grains: [text(0), 'hole', text(2)], footer: true },
  'version 1': { grains: [text(0), text(1)], version: 1 },
  'version 2': { grains: [text(0), 'zero'], version: 2 },
  'a redundant directory': { grains: [text(0), text(1)], redundant: true },
  'grains out of order': { grains: [text(0), text(1), text(2), text(3)], order: [2, 0, 3, 1] },
  'gaps between grains': { grains: [text(0), text(1), text(2)], gaps: { 1: 300, 2: 1000 } },
  'several tables': {
    grains: [text(0), ...Array.from({ length: 1100 }, (): Grain => 'hole'), text(1101), text(1102)],
  },
  'a last grain that is cut off by the end of the disk': { grains: [text(0), text(1)], capacity_sectors: 128 + 77 },
  'a last grain that is stored short': { grains: [text(0), text(1).subarray(0, 77 * 512)], capacity_sectors: 128 + 77 },
  'the first grain close to the start': { grains: [text(0), text(1)], overhead_sectors: 21 },
  'no compression inside the streams': { grains: [text(0), text(1)], level: 0 },
  'no data at all': { grains: ['hole', 'hole', 'zero'] },
}

describe.concurrent('every shape by every path', () => {
  for (const [name, shape] of Object.entries(disks)) {
    for (const [path, manifest] of [
      ['zero-copy', { compress: true }],
      ['inflate', { compress: false }],
      ['inflate', { output: { format: 'raw' } }],
    ] as const) {
      test(`${name}: ${path}${'output' in manifest ? ' to raw' : ''}`, async () => {
        const { vmdk, raw } = write(shape)
        const b = bench()
        try {
          const r = await converted(b, vmdk, raw, { ...manifest, validate: { compare: 'full' } })
          expect(r).toMatchObject({ path })
          expect(b.logs.join('')).toContain('compare disk-0: identical')
        } finally {
          b.close()
        }
      })
    }
  }
})

test('what an image holds can be written: random writes and discards, snapshots', async () => {
  const { vmdk } = write({ grains: Array.from({ length: 40 }, (_, i) => (i % 5 === 4 ? 'hole' : text(i))) })
  const b = bench()
  try {
    await b.run({ disks: [disk(vmdk, 'vmdk')], compress: true })
    const out = join(b.answerDir, 'vm.qcow2')
    const twin = join(dir, 'twin.qcow2')
    qemuImg('convert', '-f', 'vmdk', '-O', 'qcow2', vmdk, twin)
    for (const image of [out, twin]) {
      qemuImg('snapshot', '-c', 'before', image)
      const commands = Array.from({ length: 40 }, (_, i) => {
        const at = ((i * 977) % 4900) * 512
        return i % 4 === 3 ? `discard ${at} 40000` : `write -P ${i} ${at} ${512 * (1 + (i % 9) * 13)}`
      })
      execFileSync('qemu-io', ['-f', 'qcow2', image], {
        input: `${commands.join('\n')}\n`,
        stdio: ['pipe', 'ignore', 'pipe'],
      })
      qemuImg('check', '-q', '-f', 'qcow2', image)
    }
    assertSame(out, 'qcow2', twin, 'qcow2')
    qemuImg('snapshot', '-a', 'before', out)
    qemuImg('check', '-q', '-f', 'qcow2', out)
    assertSame(out, 'qcow2', vmdk, 'vmdk')
  } finally {
    b.close()
  }
})

test('grains that hold zeros alone become holes', async () => {
  const grains = Array.from({ length: 600 }, (_, i) => (i % 3 === 0 ? text(i) : Buffer.alloc(GRAIN)))
  const { vmdk, raw } = write({ grains })
  for (const format of ['qcow2', 'raw']) {
    const b = bench()
    try {
      await converted(b, vmdk, raw, { output: { format }, compress: false })
      const blocks = statSync(join(b.answerDir, `vm.${format}`)).blocks * 512
      expect(blocks).toBeGreaterThanOrEqual(200 * GRAIN)
      expect(blocks).toBeLessThan(260 * GRAIN)
    } finally {
      b.close()
    }
  }
})

test('the same source gives the same file, whatever the number of threads', async () => {
  const { vmdk, raw } = write({ grains: Array.from({ length: 2600 }, (_, i) => (i % 7 === 0 ? 'hole' : text(i % 90))) })
  for (const manifest of [{ compress: true }, { compress: false }]) {
    const sums = new Set<string>()
    for (const workers of [1, 3]) {
      const b = bench({ config: { convert: { workers, output_checksum: true } } })
      try {
        await converted(b, vmdk, raw, manifest)
        const out = readFileSync(join(b.answerDir, 'vm.qcow2'))
        const [artifact] = b.report().artifacts as { checksum?: string }[]
        const sum = createHash('sha256').update(out).digest('hex')
        expect(artifact!.checksum).toBe(`sha256:${sum}`)
        sums.add(sum)
      } finally {
        b.close()
      }
    }
    expect(sums.size).toBe(1)
  }
})

describe('large', () => {
  test('a disk of 3 TiB, its tables streamed', async () => {
    const vmdk = join(dir, 'huge.vmdk')
    const count = (3 * 2 ** 40) / GRAIN
    const at = new Map<number, Buffer>([0, 1, 16_777_216, 33_554_433, count - 1].map((i) => [i, text(i)]))
    writeStreamVmdk(vmdk, { count, grain: (i) => at.get(i) ?? 'hole' })
    for (const manifest of [{ compress: true }, { compress: false }, { output: { format: 'raw' } }]) {
      const b = bench()
      try {
        const o = await b.run({ disks: [disk(vmdk, 'vmdk')], ...manifest })
        const [r] = o.disks as (Result & { virtual_size_bytes: number })[]
        expect(r).toMatchObject({ virtual_size_bytes: 3 * 2 ** 40 })
        expect(r!.path).not.toBe('qemu-img')
        const format = 'output' in manifest ? 'raw' : 'qcow2'
        const image = join(b.answerDir, `vm.${format}`)
        for (const [i, bytes] of at) {
          const read = execFileSync('qemu-io', ['-r', '-f', format, '-c', `read -v ${i * GRAIN} 512`, image], {
            encoding: 'utf8',
          })
          expect(read, `grain ${i}`).toContain(bytes.toString('hex', 0, 16).replace(/../g, '$& ').trim())
        }
      } finally {
        b.close()
      }
    }
    rmSync(vmdk)
  }, 600_000)

  test('a disk that starts behind 5 GiB of an archive', async () => {
    const content = [text(0), 'hole', text(2)] as Grain[]
    const bytes = makeStreamVmdk({ grains: content })
    const ova = join(dir, 'far.ova')
    writeFileSync(ova, makeOva({ disks: [{ name: 'd.vmdk', bytes, capacity_bytes: 3 * GRAIN }], order: ['vm.ovf'] }))
    // behind the descriptor a member of 5 GiB that no disk is made of, then the disk; all sparse
    const tail = makeOva({ disks: [{ name: 'd.vmdk', bytes, capacity_bytes: 3 * GRAIN }], order: ['d.vmdk'] })
    const filler = 5 * 2 ** 30
    const head = readFileSync(ova).subarray(0, -1024)
    const fd = openSync(ova, 'w')
    writeSync(fd, head, 0, head.length, 0)
    const { tarHeader } = await import('../support/ova-maker.ts')
    writeSync(fd, tarHeader({ name: 'filler.iso', content: Buffer.alloc(0) }, filler, {}), 0, 512, head.length)
    writeSync(fd, tail, 0, tail.length, head.length + 512 + filler)
    closeSync(fd)
    const raw = join(dir, 'far.raw')
    writeFileSync(raw, contentOf({ grains: content }))
    for (const compress of [true, false]) {
      const b = bench()
      try {
        const o = await b.run({ disks: [disk(ova, 'ova')], compress })
        expect((o.disks as Result[])[0]!.path).toBe(compress ? 'zero-copy' : 'inflate')
        assertSame(raw, 'raw', join(b.answerDir, 'vm.qcow2'), 'qcow2')
      } finally {
        b.close()
      }
    }
  })
})

describe('choice', () => {
  const run = async (
    shape: VmdkShape & { grains: Grain[] },
    manifest: Record<string, unknown>,
    config = {},
  ): Promise<Result> => {
    const { vmdk, raw } = write(shape)
    const b = bench({ config: { convert: config } })
    try {
      return await converted(b, vmdk, raw, manifest)
    } finally {
      b.close()
    }
  }
  const plain = { grains: [text(0), text(1)] }

  test('qemu-img when it is asked for, or strict, or for vdi', async () => {
    expect(await run(plain, { convert: { path: 'qemu-img' } })).toEqual(
      expect.objectContaining({ path: 'qemu-img', path_reason: 'it was asked for' }),
    )
    const strict = await run(plain, { compress: true, convert: { strict: true } })
    expect(strict).toMatchObject({ path: 'qemu-img', path_reason: expect.stringContaining('strict') })
    expect(await run(plain, { output: { format: 'vdi' } })).toMatchObject({
      path: 'qemu-img',
      path_reason: 'the output is vdi',
    })
  })

  test('strict: every cluster inflates with a window of 4 KiB', async () => {
    const { vmdk } = write({ grains: Array.from({ length: 8 }, (_, i) => text(i)) })
    const b = bench()
    try {
      await b.run({ disks: [disk(vmdk, 'vmdk')], compress: true, convert: { strict: true } })
      const info = JSON.parse(qemuImg('info', '--output=json', join(b.answerDir, 'vm.qcow2')))
      expect(info['format-specific'].data['compression-type']).toBe('zlib')
    } finally {
      b.close()
    }
  })

  test('other grain sizes are left to qemu-img, and the report says so', async () => {
    const r = await run(
      { grains: [text(0).subarray(0, 32768), text(1).subarray(0, 32768)], grain_sectors: 64 },
      { compress: true },
    )
    expect(r).toMatchObject({ path: 'qemu-img', path_reason: 'its grains have 32768 bytes, not 65536' })
  })

  test('a marker that names another sector: begun, then left to qemu-img', async () => {
    const r = await run(
      {
        ...plain,
        meddle: (i, g) => {
          if (i === 1) g.lba = 999n
        },
      },
      { compress: true },
    )
    expect(r).toMatchObject({
      path: 'qemu-img',
      path_reason: expect.stringMatching(/^zero-copy was begun, but .*marked as one for sector 999/),
    })
  })

  test('a path that was asked for and cannot be used: an error before anything is written', async () => {
    await expect(run(plain, { compress: true, convert: { path: 'inflate' } })).rejects.toMatchObject({
      code: 'path-unavailable',
      phase: 'inspect',
    })
    await expect(run(plain, { compress: false, convert: { path: 'zero-copy' } })).rejects.toMatchObject({
      code: 'path-unavailable',
    })
    const image = join(dir, 'not-vmdk.qcow2')
    qemuImg('create', '-q', '-f', 'qcow2', image, '1M')
    const b = bench()
    try {
      await expect(
        b.run({ disks: [disk(image, 'qcow2')], compress: true, convert: { path: 'zero-copy' } }),
      ).rejects.toThrow(
        'The path "zero-copy" cannot be used for disk "disk-0": the source is qcow2, not a streamOptimized VMDK.',
      )
    } finally {
      b.close()
    }
  })

  test('path zero-copy alone asks for compressed output', async () => {
    expect(await run(plain, { convert: { path: 'zero-copy' } })).toMatchObject({ path: 'zero-copy' })
  })

  test('structure needs a checksum of the same bytes, or the configuration', async () => {
    const asked = { compress: true, validate: { grains: 'structure' } }
    expect(await run(plain, asked)).toMatchObject({ grains: 'full' })
    expect(await run(plain, asked, { grains: 'structure' })).toMatchObject({ grains: 'structure' })
    expect(await run(plain, { compress: true }, { grains: 'structure' })).toMatchObject({ grains: 'structure' })
    expect(await run(plain, { compress: true, validate: { grains: 'full' } }, { grains: 'structure' })).toMatchObject({
      grains: 'full',
    })
    const { vmdk, raw } = write(plain)
    const checksum = `sha256:${createHash('sha256').update(readFileSync(vmdk)).digest('hex')}`
    const b = bench()
    try {
      const o = await b.run({ disks: [disk(vmdk, 'vmdk', { checksum })], ...asked })
      expect((o.disks as Result[])[0]).toMatchObject({ grains: 'structure', checksum_verified: true })
      assertSame(raw, 'raw', join(b.answerDir, 'vm.qcow2'), 'qcow2')
    } finally {
      b.close()
    }
  })
})

describe('damage', () => {
  const faults: Record<string, (stream: Buffer) => Buffer> = {
    'a flipped bit': (s) => {
      s[Math.floor(s.length / 2)]! ^= 4
      return s
    },
    'a wrong Adler-32': (s) => {
      s[s.length - 1]! ^= 1
      return s
    },
  }
  for (const [name, fault] of Object.entries(faults)) {
    for (const manifest of [{ compress: true }, { compress: false }, { output: { format: 'raw' } }]) {
      test(`${name}: no image, with ${JSON.stringify(manifest)}`, async () => {
        const { vmdk } = write({
          grains: [text(0), text(1), text(2)],
          meddle: (i, g) => {
            if (i === 1) g.stream = fault(g.stream)
          },
        })
        const b = bench()
        try {
          await expect(b.run({ disks: [disk(vmdk, 'vmdk')], ...manifest })).rejects.toMatchObject({
            code: 'damaged-grain',
            transient: false,
            message: expect.stringMatching(
              /The grain at byte \d+ of the VMDK, for byte 65536 of the disk: its stream is damaged/,
            ),
          })
          expect(b.answers()).toEqual(['vm.report.json'])
        } finally {
          b.close()
        }
      })
    }
  }

  test('a source that is written to meanwhile is told, and tried again', async () => {
    const { vmdk } = write({ grains: [text(0), text(1)] })
    const b = bench()
    try {
      const run = b.run(
        { disks: [disk(vmdk, 'vmdk')], compress: true },
        {
          log: (_s, t) => {
            if (t.toString().startsWith('copy disk-0: by zero-copy')) utimesSync(vmdk, 1, 1)
          },
        },
      )
      await expect(run).rejects.toMatchObject({ code: 'changed', transient: true })
    } finally {
      b.close()
    }
  })
})

test('cancelling ends the threads in their work, and nothing is left', async () => {
  const vmdk = join(dir, 'long.vmdk')
  writeStreamVmdk(vmdk, { count: 12_000, level: 1, grain: (i) => text(i % 64) })
  const b = bench()
  // the output is there as soon as the threads begin; a second of work lies before them
  const image = join(b.attemptDir, 'copy/disk-0.qcow2')
  const timer = setInterval(() => {
    if (existsSync(image)) b.abort.abort({ kind: 'cancel', message: 'Enough.' })
  }, 2)
  try {
    const run = b.run({ disks: [disk(vmdk, 'vmdk')], compress: false })
    await expect(run).rejects.toMatchObject({ code: 'aborted-cancel', phase: 'convert' })
    expect(b.logs.join('')).toContain('copy disk-0: by inflate')
    expect(b.logs.join('')).toMatch(/^copy: failed/m)
    expect(b.answers()).toEqual([])
    expect(existsSync(image)).toBe(false)
  } finally {
    clearInterval(timer)
    b.close()
    rmSync(vmdk)
  }
}, 600_000)

describe('on a filesystem that clones', () => {
  let fs: LoopFs
  let box: string
  beforeAll(async () => {
    box = join(dir, 'btrfs-box')
    mkdirSync(box)
    fs = await loopFs(box, 'btrfs', 1)
  })
  afterAll(async () => {
    await fs[Symbol.asyncDispose]()
  })

  test('a disk by itself: its blocks are shared', async () => {
    const { vmdk, raw } = write(
      { grains: Array.from({ length: 300 }, (_, i) => (i % 9 === 0 ? 'hole' : text(i))), level: 0 },
      fs.path,
    )
    mkdirSync(join(fs.path, 'job'))
    const b = bench({ dir: join(fs.path, 'job') })
    expect(await converted(b, vmdk, raw, { compress: true })).toMatchObject({ path: 'zero-copy', transfer: 'clone' })
    execFileSync('sync', ['-f', fs.path])
    const exclusive = execFileSync('btrfs', ['filesystem', 'du', '-s', '--raw', join(b.answerDir, 'vm.qcow2')], {
      encoding: 'utf8',
    })
    expect(Number(exclusive.trim().split('\n').at(-1)!.trim().split(/\s+/)[1])).toBeLessThan(2 * MiB)
  })

  test('several disks in one archive: each output holds its own bytes alone', async () => {
    const names = ['alpha', 'beta', 'gamma']
    const shapes = names.map((name) => ({ grains: [text(0, name), 'hole' as const, text(2, name)], level: 0 }))
    const ova = join(fs.path, 'three.ova')
    writeFileSync(
      ova,
      makeOva({
        disks: shapes.map((s, i) => ({
          name: `${names[i]}.vmdk`,
          bytes: makeStreamVmdk(s),
          capacity_bytes: 3 * GRAIN,
        })),
        mf: 'SHA256',
      }),
    )
    mkdirSync(join(fs.path, 'three'))
    for (const [epoch, where] of [join(fs.path, 'three'), tempFolder(dir)].entries()) {
      const b = bench({ dir: where, epoch: epoch + 1 })
      const o = await b.run({ disks: [disk(ova, 'ova')], compress: true })
      const reported = o.disks as (Result & { checksum_verified: boolean })[]
      expect(reported.map((d) => [d.transfer, d.checksum_verified])).toEqual(
        names.map(() => [epoch === 0 ? 'clone' : 'copy', true]),
      )
      const files = [
        'vm.qcow2',
        ...reported.slice(1).map((d) => `vm.disks/${(d as unknown as { id: string }).id}.qcow2`),
      ]
      for (const [i, file] of files.entries()) {
        const raw = join(dir, `${names[i]}.raw`)
        writeFileSync(raw, contentOf(shapes[i]!))
        assertSame(raw, 'raw', join(b.answerDir, file), 'qcow2')
        qemuImg('check', '-q', '-f', 'qcow2', join(b.answerDir, file))
        const bytes = readFileSync(join(b.answerDir, file))
        for (const name of names) expect(bytes.includes(`of ${name},`), `${name} in ${file}`).toBe(name === names[i])
        expect(bytes.includes('<Envelope'), 'the descriptor').toBe(false)
      }
    }
  })
})
