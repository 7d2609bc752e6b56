// The long proof that a zero-copy image is a disk: a real Debian, exported as an OVA, converted without inflating a grain, boots to
// its login prompt.
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { bootUntil } from '../support/boot-guest.ts'
import { runConvert } from '../support/convert-command.ts'
import { debianGuest } from '../support/debian-guest.ts'
import { exportOva } from '../support/export-ova.ts'

const started = performance.now()
const say = (line: string) =>
  process.stdout.write(`${((performance.now() - started) / 1000).toFixed(1).padStart(7)} s  ${line}\n`)
const dir = await mkdtemp(join(tmpdir(), 'vs-boot-'))
try {
  const guest = await debianGuest(say)
  const vmdk = join(dir, 'guest-disk1.vmdk')
  say('export: streamOptimized VMDK in an OVA')
  await execa('qemu-img', ['convert', '-f', 'raw', '-O', 'vmdk', '-o', 'subformat=streamOptimized', guest.raw, vmdk])
  const ova = await exportOva('guest', [{ path: vmdk, capacity_bytes: guest.size_bytes }])
  const out = join(dir, 'out')
  await mkdir(out)
  const made = await runConvert({
    source: ova,
    format: 'ova',
    out,
    name: 'guest',
    manifest: { compress: true, convert: { path: 'zero-copy' } },
  })
  const disk = made.report.disks[0]
  say(`vmspool convert: path ${disk.path} (${disk.path_reason}) in ${Math.round(made.ms)} ms`)
  if (disk.path !== 'zero-copy') throw new Error(`The guest was converted by the path ${disk.path}, not by zero copy.`)
  await execa('qemu-img', ['check', '-q', '-f', 'qcow2', made.image])
  await execa('qemu-img', ['compare', '-q', '-f', 'qcow2', '-F', 'raw', made.image, guest.raw])
  say('qemu-img check and compare with the guest: sound and identical')
  await bootUntil({ path: made.image, format: 'qcow2' }, { until: new RegExp(`${guest.hostname} login: `) })
  say(`booted to "${guest.hostname} login:"`)
} finally {
  await rm(dir, { recursive: true, force: true })
}
