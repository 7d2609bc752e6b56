/** OVA members read at their offset, OVF folders, in the order of the virtual hardware, with the manifest's checksums. */
import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { assertSame, type Bench, bench, disk, list, qemuImg, tempFolder } from './harness.ts'

let dir: string
let box: string
let b: Bench
const MiB = 1024 * 1024

beforeAll(() => {
  dir = tempFolder()
  box = join(dir, 'export')
  mkdirSync(box)
  for (const [i, size] of [5, 9].entries()) {
    const raw = join(dir, `${i}.raw`)
    writeFileSync(raw, Buffer.concat([randomBytes(MiB), Buffer.alloc((size - 2) * MiB), randomBytes(MiB)]))
    qemuImg('convert', '-f', 'raw', '-O', 'vmdk', '-o', 'subformat=streamOptimized', raw, join(box, `vm-disk${i}.vmdk`))
  }
  writeFileSync(join(box, 'vm.ovf'), ovf(['vm-disk0.vmdk', 'vm-disk1.vmdk']))
  writeFileSync(join(box, 'vm.mf'), mf(box, 'SHA256', ['vm.ovf', 'vm-disk0.vmdk', 'vm-disk1.vmdk']))
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))
beforeEach(() => {
  b = bench()
})
afterEach(() => b.close())

/** Disk 1 is attached before disk 0, and listed after it. */
function ovf(files: string[]): string {
  return `<?xml version="1.0"?>
<ovf:Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
<ovf:References>${files.map((f, i) => `<ovf:File ovf:id="file${i}" ovf:href="${f}"/>`).join('')}</ovf:References>
<ovf:DiskSection><ovf:Info/>${files.map((_, i) => `<ovf:Disk ovf:diskId="vmdisk${i}" ovf:fileRef="file${i}" ovf:capacity="${[5, 9][i]}" ovf:capacityAllocationUnits="byte * 2^20"/>`).join('')}</ovf:DiskSection>
<ovf:VirtualSystem ovf:id="vm"><ovf:Info/><ovf:Name>vm &amp; co</ovf:Name><ovf:VirtualHardwareSection><ovf:Info/>
<ovf:Item><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceType>6</rasd:ResourceType></ovf:Item>
${files.map((_, i) => `<ovf:Item><rasd:AddressOnParent>${files.length - i}</rasd:AddressOnParent><rasd:HostResource>ovf:/disk/vmdisk${i}</rasd:HostResource><rasd:InstanceID>${10 + i}</rasd:InstanceID><rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></ovf:Item>`).join('\n')}
</ovf:VirtualHardwareSection></ovf:VirtualSystem></ovf:Envelope>`
}

function mf(folder: string, algorithm: string, names: string[]): string {
  return names
    .map(
      (n) =>
        `${algorithm}(${n})= ${createHash(algorithm.toLowerCase())
          .update(readFileSync(join(folder, n)))
          .digest('hex')}\n`,
    )
    .join('')
}

function tar(file: string, folder: string, names: string[], format: string): string {
  execFileSync('tar', [`--format=${format}`, '-C', folder, '-cf', file, ...names])
  return file
}

test.each(['ustar', 'gnu', 'pax', 'v7'])('an OVA in %s, two disks, .ovf last', async (format) => {
  const ova = tar(join(dir, `${format}.ova`), box, ['vm-disk0.vmdk', 'vm.mf', 'vm-disk1.vmdk', 'vm.ovf'], format)
  const r = await b.run({ disks: [disk(ova, 'ova')] })
  expect(b.answers()).toEqual(['vm.disks/disk-0-1.qcow2', 'vm.qcow2', 'vm.report.json', 'vm.xml'])
  assertSame(join(dir, '1.raw'), 'raw', join(b.answerDir, 'vm.qcow2'), 'qcow2')
  assertSame(join(dir, '0.raw'), 'raw', join(b.answerDir, 'vm.disks', 'disk-0-1.qcow2'), 'qcow2')
  expect(r.warnings).toEqual([])
  expect((r.disks as { checksum_verified: boolean }[]).map((d) => d.checksum_verified)).toEqual([true, true])
  // nothing was unpacked
  expect(list(b.attemptDir).filter((f) => f.endsWith('.vmdk'))).toEqual([])
})

test('long and odd member names, and junk after the end', async () => {
  const long = `${'n'.repeat(120)} ü.vmdk`
  const folder = join(dir, 'long')
  mkdirSync(folder)
  execFileSync('cp', [join(box, 'vm-disk0.vmdk'), join(folder, long)])
  writeFileSync(join(folder, 'a.ovf'), ovf([long.replaceAll(' ', '%20')]))
  for (const format of ['gnu', 'pax']) {
    const ova = tar(join(dir, `long-${format}.ova`), folder, ['a.ovf', long], format)
    writeFileSync(ova, Buffer.concat([readFileSync(ova), Buffer.alloc(8192), randomBytes(4096)]))
    const c = bench()
    try {
      const r = await c.run({ disks: [disk(ova, 'ova')] })
      assertSame(join(dir, '0.raw'), 'raw', join(c.answerDir, 'vm.qcow2'), 'qcow2')
      expect(r.warnings?.map((w) => w.message).join()).toContain('no manifest (.mf)')
    } finally {
      c.close()
    }
  }
})

test('an OVF beside its disks', async () => {
  await b.run({ disks: [disk(join(box, 'vm.ovf'), 'ovf')] })
  assertSame(join(dir, '1.raw'), 'raw', join(b.answerDir, 'vm.qcow2'), 'qcow2')
  assertSame(join(dir, '0.raw'), 'raw', join(b.answerDir, 'vm.disks', 'disk-0-1.qcow2'), 'qcow2')
})

test('flat and split sparse VMDKs inside an OVA, through their descriptors', async () => {
  for (const subformat of ['monolithicFlat', 'twoGbMaxExtentSparse']) {
    const folder = join(dir, subformat)
    mkdirSync(folder)
    qemuImg(
      'convert',
      '-f',
      'raw',
      '-O',
      'vmdk',
      '-o',
      `subformat=${subformat}`,
      join(dir, '0.raw'),
      join(folder, 'd.vmdk'),
    )
    writeFileSync(join(folder, 'a.ovf'), ovf(['d.vmdk']))
    const ova = tar(
      join(dir, `${subformat}.ova`),
      folder,
      ['a.ovf', ...list(folder).filter((f) => f !== 'a.ovf')],
      'ustar',
    )
    const c = bench()
    try {
      await c.run({ disks: [disk(ova, 'ova')] })
      assertSame(join(dir, '0.raw'), 'raw', join(c.answerDir, 'vm.qcow2'), 'qcow2')
    } finally {
      c.close()
    }
  }
})

test.each(['SHA1', 'SHA256', 'SHA512'])('a wrong %s of a disk publishes nothing', async (algorithm) => {
  const folder = join(dir, `bad-${algorithm}`)
  mkdirSync(folder)
  for (const f of ['vm-disk0.vmdk', 'vm-disk1.vmdk', 'vm.ovf']) execFileSync('cp', [join(box, f), folder])
  writeFileSync(join(folder, 'vm.mf'), mf(folder, algorithm, ['vm.ovf', 'vm-disk0.vmdk', 'vm-disk1.vmdk']))
  const damaged = readFileSync(join(folder, 'vm-disk0.vmdk'))
  damaged[damaged.length - 1] = damaged.at(-1)! ^ 1
  writeFileSync(join(folder, 'vm-disk0.vmdk'), damaged)
  const ova = tar(
    join(dir, `bad-${algorithm}.ova`),
    folder,
    ['vm.ovf', 'vm.mf', 'vm-disk0.vmdk', 'vm-disk1.vmdk'],
    'ustar',
  )
  await expect(b.run({ disks: [disk(ova, 'ova')] })).rejects.toMatchObject({
    code: 'checksum-mismatch',
    transient: false,
  })
  expect(b.answers()).toEqual(['vm.report.json'])
  expect(existsSync(join(b.attemptDir, 'copy'))).toBe(false)
})

test.each([
  ['href upwards', { ovf: ovf(['../../etc/passwd']) }, 'reference-refused'],
  ['href absolute', { ovf: ovf(['/etc/passwd']) }, 'reference-refused'],
  ['href encoded', { ovf: ovf(['..%2f..%2fetc%2fpasswd']) }, 'reference-refused'],
  ['href with a scheme', { ovf: ovf(['file:etc']) }, 'reference-refused'],
  [
    'an entity bomb',
    { ovf: `<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>${ovf(['vm-disk0.vmdk'])}` },
    'bad-ovf',
  ],
  ['a member that is missing', { ovf: ovf(['nothing.vmdk']) }, 'bad-archive'],
  ['no disks', { ovf: '<Envelope><References/></Envelope>' }, 'bad-ovf'],
  ['no XML', { ovf: '\0\0\0' }, 'bad-ovf'],
])('hostile OVF: %s', async (_name, files, code) => {
  const folder = join(dir, `hostile-${randomBytes(4).toString('hex')}`)
  mkdirSync(folder)
  execFileSync('cp', [join(box, 'vm-disk0.vmdk'), folder])
  writeFileSync(join(folder, 'a.ovf'), files.ovf)
  const ova = tar(join(folder, 'x.ova'), folder, ['a.ovf', 'vm-disk0.vmdk'], 'ustar')
  await expect(b.run({ disks: [disk(ova, 'ova')] })).rejects.toMatchObject({ code, transient: false })
  await expect(b.run({ disks: [disk(join(folder, 'a.ovf'), 'ovf')] })).rejects.toMatchObject({ transient: false })
  expect(b.answers()).toEqual(['vm.report.json'])
})

test('two members of one name, a cut archive, one packed by another tool', async () => {
  const twice = join(dir, 'twice.ova')
  execFileSync('tar', [
    '-C',
    box,
    '-cf',
    twice,
    'vm.ovf',
    'vm-disk0.vmdk',
    'vm-disk1.vmdk',
    'vm-disk0.vmdk',
    '--hard-dereference',
  ])
  const copy = join(dir, 'copy')
  mkdirSync(copy)
  execFileSync('cp', [join(box, 'vm-disk1.vmdk'), join(copy, 'vm-disk0.vmdk')])
  execFileSync('tar', ['-C', copy, '-rf', twice, 'vm-disk0.vmdk'])
  await expect(b.run({ disks: [disk(twice, 'ova')] })).rejects.toMatchObject({ code: 'bad-archive' })
  const good = tar(join(dir, 'good.ova'), box, ['vm.ovf', 'vm-disk0.vmdk', 'vm-disk1.vmdk'], 'ustar')
  const bytes = readFileSync(good)
  const cut = join(dir, 'cut.ova')
  writeFileSync(cut, bytes.subarray(0, bytes.length >> 1))
  await expect(b.run({ disks: [disk(cut, 'ova')] })).rejects.toMatchObject({ code: 'truncated' })
  execFileSync('xz', ['-0', '-k', good])
  const e = await b.run({ disks: [disk(`${good}.xz`, 'ova')] }).catch((x: Error) => x)
  expect(e).toMatchObject({ code: 'unsupported', hint: 'Unpack it with xz first.' })
})
