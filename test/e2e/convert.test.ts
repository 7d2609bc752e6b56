import { createHash } from 'node:crypto'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { describe, expect, test } from 'vitest'
import { bed, vmspool } from '../support/agent.ts'
import { holds, makeDisk } from '../support/disks.ts'
import { artifactManifest } from '../support/manifests.ts'
import { answerFiles, drop, endOf, eventsOf, readJson } from '../support/results.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

const sha256 = async (file: string) =>
  createHash('sha256')
    .update(await readFile(file))
    .digest('hex')

describe.concurrent('a manifest becomes verified disks', () => {
  test('every source format', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    await b.start()
    const formats = [
      { format: 'vmdk', options: 'subformat=streamOptimized' },
      { format: 'vmdk', options: 'subformat=monolithicSparse' },
      { format: 'vmdk', options: 'subformat=monolithicFlat' },
      { format: 'vmdk', options: 'subformat=twoGbMaxExtentSparse' },
      { format: 'qcow2' },
      { format: 'raw' },
      { format: 'vpc' },
      { format: 'vhdx' },
      { format: 'vdi' },
    ]
    const disks = []
    for (const [i, f] of formats.entries()) disks.push(await makeDisk(dir.path, `d${i}`, { ...f, size_mib: 4 }))
    for (const [i, disk] of disks.entries()) await drop(b, artifactManifest(`vm${i}`, [disk]))
    for (const [i, disk] of disks.entries()) {
      const status = await endOf(b, `vm${i}`)
      expect(status, `${formats[i]!.format} ${formats[i]!.options}`).toMatchObject({ state: 'succeeded' })
      expect(await holds(join(b.layout.output, `vm${i}.qcow2`), 'qcow2', disk)).toBe(true)
      expect(await sha256(disk.path)).toBe(disk.sha256)
    }
    expect(await readdir(b.layout.work)).toEqual([])
  })

  test('several disks: the boot disk under the name, the others by their ids, all told in the result', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    await b.start()
    const data = await makeDisk(dir.path, 'data', { size_mib: 4 })
    const boot = await makeDisk(dir.path, 'boot', { size_mib: 4 })
    const manifest = artifactManifest('web', [data, boot])
    // The exporter's numbering: the first disk lost its hint 0 to omitempty, and the second is not the boot disk by number.
    for (const d of manifest.disks) d.disk_type = 'unknown'
    manifest.disks[1]!.disk_type = 'boot'
    await drop(b, manifest)
    const status = await endOf(b, 'web')
    expect(status).toMatchObject({ state: 'succeeded', name: 'web', kind: 'convert', epoch: 0 })
    expect(await holds(join(b.layout.output, 'web.qcow2'), 'qcow2', boot)).toBe(true)
    expect(await holds(join(b.layout.output, 'web.disks', 'disk-0.qcow2'), 'qcow2', data)).toBe(true)
    expect(await answerFiles(b, 'web')).toEqual(
      expect.arrayContaining([
        'web.disks',
        'web.qcow2',
        'web.report.json',
        'web.result.json',
        'web.status.json',
        'web.xml',
      ]),
    )
    // libvirt finds the disks where the answer lies, in the order of the source, the boot disk first to boot
    const xml = await readFile(join(b.layout.output, 'web.xml'), 'utf8')
    const sources = [...xml.matchAll(/<source file="(.*)"\/>/g)].map((m) => m[1])
    expect(sources).toEqual(['web.disks/disk-0.qcow2', 'web.qcow2'].map((f) => join(b.layout.output, f)))
    expect([...xml.matchAll(/<boot order="(\d)"\/>/g)].map((m) => m[1])).toEqual(['2', '1'])
    expect(await answerFiles(b, 'web')).not.toContain('web.error')
    const result = await readJson(join(b.layout.output, 'web.result.json'))
    expect(result).toMatchObject({ id: status.id, epoch: 0 })
    expect(result).toMatchObject({
      artifacts: expect.arrayContaining([expect.objectContaining({ path: 'web.qcow2' })]),
    })
    const report = await readJson(join(b.layout.output, 'web.report.json'))
    expect(report).toMatchObject({
      version: '1.0',
      pipeline: { success: true },
      summary: { input_disks: 2, output_disks: 2 },
    })
    // that it ended is told a moment after its answer is there
    const order = await until('its end is told', async () => {
      const told = (await eventsOf(b)).filter((e) => e.job === status.id).map((e) => e.event)
      return told.includes('finished') ? told : undefined
    })
    expect(order[0]).toBe('accepted')
    expect(order.indexOf('started')).toBeGreaterThan(0)
    expect(order.at(-1)).toBe('finished')
  })

  test('raw and vdi: the image, and a qcow2 for those who poll for it', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    await b.start()
    const disk = await makeDisk(dir.path, 'd', { size_mib: 4 })
    for (const format of ['raw', 'vdi']) await drop(b, artifactManifest(`as-${format}`, [disk], { output: { format } }))
    for (const format of ['raw', 'vdi']) {
      expect(await endOf(b, `as-${format}`)).toMatchObject({ state: 'succeeded' })
      expect(await holds(join(b.layout.output, `as-${format}.${format}`), format, disk)).toBe(true)
      expect(await holds(join(b.layout.output, `as-${format}.qcow2`), 'qcow2', disk)).toBe(true)
    }
  })

  test('an OVA, its disk read inside the archive', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    await b.start()
    const disk = await makeDisk(dir.path, 'web-disk1', { size_mib: 4 })
    const ovf = `<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
  <References><File ovf:href="web-disk1.vmdk" ovf:id="file1" ovf:size="${disk.size_bytes}"/></References>
  <DiskSection><Info>disks</Info><Disk ovf:capacity="${4 << 20}" ovf:diskId="vmdisk1" ovf:fileRef="file1"
    ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/></DiskSection>
  <VirtualSystem ovf:id="web"><Info>vm</Info><Name>web</Name></VirtualSystem>
</Envelope>`
    await writeFile(join(dir.path, 'web.ovf'), ovf)
    await execa('tar', ['--format=ustar', '-cf', 'web.ova', 'web.ovf', 'web-disk1.vmdk'], { cwd: dir.path })
    const ova = {
      ...disk,
      path: join(dir.path, 'web.ova'),
      format: 'ova',
      sha256: await sha256(join(dir.path, 'web.ova')),
    }
    const manifest = artifactManifest('web', [ova])
    delete (manifest.disks[0] as { bytes?: number }).bytes
    await drop(b, manifest)
    expect(await endOf(b, 'web')).toMatchObject({ state: 'succeeded' })
    expect(await holds(join(b.layout.output, 'web.qcow2'), 'qcow2', disk)).toBe(true)
  })

  test('a disk that is not what the manifest says is refused with both values', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    await b.start()
    const disk = await makeDisk(dir.path, 'd', { size_mib: 4 })
    const other = `sha256:${'0'.repeat(64)}`
    const changed = artifactManifest('sum', [disk])
    changed.disks[0]!.checksum = other
    const gone = artifactManifest('gone', [{ ...disk, path: join(dir.path, 'nowhere.vmdk') }])
    await drop(b, changed)
    await drop(b, gone)
    expect(await endOf(b, 'sum')).toMatchObject({ state: 'failed' })
    const text = await readFile(join(b.layout.output, 'sum.error'), 'utf8')
    expect(text).toContain(disk.sha256)
    expect(text).toContain('0'.repeat(64))
    expect((await endOf(b, 'gone')).state).toMatch(/failed|rejected|retrying/)
    expect(await answerFiles(b, 'sum')).not.toContain('sum.qcow2')
    const fsck = await execa(vmspool, ['fsck', '--root', b.dir, '--instance', b.instance], {
      env: b.env,
      reject: false,
    })
    expect(fsck.stdout).toContain('0 errors')
    expect(fsck.exitCode).toBe(0)
  })

  test('a dry run touches nothing and estimates', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    await b.start()
    const disk = await makeDisk(dir.path, 'd', { size_mib: 4 })
    await drop(b, artifactManifest('dry', [disk], { options: { dry_run: true } }))
    expect(await endOf(b, 'dry')).toMatchObject({ state: 'succeeded' })
    expect((await answerFiles(b, 'dry')).filter((f) => f.endsWith('.qcow2'))).toEqual([])
  })
})
