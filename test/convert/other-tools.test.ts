/**
 * Writers and readers that share no code with us or with qemu: Debian's VMDKstream writes streamOptimized VMDKs with the grain directory in the
 * footer, Python's tarfile packs them, 7-Zip reads the qcow2 with an inflate of its own.
 */
import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { makeMf, makeOvf } from '../support/ova-maker.ts'
import { assertSame, bench, disk, tempFolder } from './harness.ts'

const SIZE = 9 * 1024 * 1024 + 512 * 9
let dir: string
let raw: string
let vmdk: string

/** The system's Python: Debian's modules are not in any other. */
function python(script: string, ...args: string[]): void {
  execFileSync('/usr/bin/python3', ['-c', script, ...args], { stdio: 'pipe' })
}

beforeAll(() => {
  dir = tempFolder()
  raw = join(dir, 'disk.raw')
  vmdk = join(dir, 'disk.vmdk')
  const bytes = Buffer.alloc(SIZE)
  randomBytes(1024 * 1024).copy(bytes, 300_000)
  bytes.fill('text that compresses ', 4 * 1024 * 1024, 6 * 1024 * 1024)
  randomBytes(512).copy(bytes, SIZE - 512)
  writeFileSync(raw, bytes)
  python('import sys, VMDKstream; VMDKstream.convert_to_stream(sys.argv[1], sys.argv[2])', raw, vmdk)
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

function sumBy7zip(image: string): string {
  const content = execFileSync('7zz', ['e', '-so', image], {
    stdio: ['ignore', 'pipe', 'pipe'],
    maxBuffer: 4 * SIZE,
  })
  return createHash('sha256').update(content).digest('hex')
}

test.each([
  ['zero-copy', true, 'qcow2'],
  ['inflate', false, 'qcow2'],
  ['inflate', false, 'raw'],
  ['qemu-img', true, 'qcow2'],
])('a VMDK of VMDKstream, by %s (compressed: %s) to %s', async (path, compress, format) => {
  const b = bench({ config: { convert: { compression_type: 'zlib' } } })
  try {
    const r = await b.run({ disks: [disk(vmdk, 'vmdk')], compress, convert: { path }, output: { format } })
    expect(r.disks).toMatchObject([{ path }])
    const out = join(b.answerDir, `vm.${format}`)
    assertSame(raw, 'raw', out, format)
    if (format === 'qcow2') expect(sumBy7zip(out)).toBe(createHash('sha256').update(readFileSync(raw)).digest('hex'))
  } finally {
    b.close()
  }
})

test.each(['USTAR_FORMAT', 'GNU_FORMAT', 'PAX_FORMAT'])('in an OVA of Python’s tarfile, %s', async (format) => {
  const folder = join(dir, format)
  mkdirSync(folder)
  const files = [
    { name: 'vm.ovf', content: Buffer.from(makeOvf([{ href: 'disk.vmdk', capacity_bytes: SIZE }])) },
    { name: 'disk.vmdk', content: readFileSync(vmdk) },
  ]
  files.push({ name: 'vm.mf', content: Buffer.from(makeMf(files, 'SHA256')) })
  for (const f of files) writeFileSync(join(folder, f.name), f.content)
  python(
    `import sys, tarfile
with tarfile.open(sys.argv[1], "w", format=tarfile.${format}) as t:
  for n in sys.argv[3:]: t.add(sys.argv[2] + "/" + n, n)`,
    join(folder, 'vm.ova'),
    folder,
    'vm.mf',
    'disk.vmdk',
    'vm.ovf',
  )
  const b = bench()
  try {
    const r = await b.run({ disks: [disk(join(folder, 'vm.ova'), 'ova')], compress: true })
    expect(r.disks).toMatchObject([{ path: 'zero-copy', checksum_verified: true }])
    assertSame(raw, 'raw', join(b.answerDir, 'vm.qcow2'), 'qcow2')
    expect(sumBy7zip(join(b.answerDir, 'vm.qcow2'))).toBe(createHash('sha256').update(readFileSync(raw)).digest('hex'))
  } finally {
    b.close()
  }
})
