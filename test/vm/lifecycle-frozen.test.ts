// A QEMU that hangs answers nobody: neither the power button nor SIGTERM. It is ended all the same, and its VM can go.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { blankDisk, GONE, hear, order, spec, vmBed } from './bed.ts'

test('a VM whose QEMU hangs is stopped and deleted', async () => {
  await using bed = await vmBed()
  await using room = await bed.room()
  const image = await blankDisk(join(room.temp.path, 'blank.raw'))
  await room.vms.create(order(), spec('frozen', { image }), hear())
  const pid = await readFile(join(bed.libvirtd.dir, 'run/libvirt/qemu/frozen.pid'), 'utf8')
  await bed.libvirtd.inside(['sh', '-c', `kill -STOP ${pid}`])
  const h = hear()
  const stopped = await room.vms.stop(order(), 'frozen', { force: false, grace_ms: 1500 }, h)
  expect(stopped.summary).toBe('The VM "frozen" was stopped by pulling the plug.')
  expect(h.said).toContain('QEMU does not answer')
  expect(stopped.warnings.join()).toContain('did not stop within 1.5 s')
  expect(await bed.virsh('domstate', 'frozen')).toBe('shut off')
  // and libvirt is well: it runs again
  expect((await room.vms.start(order(), 'frozen', { address_timeout_ms: 0 }, hear())).vm?.state).toBe('running')
  await room.vms.remove(order(), 'frozen', { keep_disks: false, force: true, grace_ms: 0 }, hear())
  expect(await room.traces('frozen')).toEqual(GONE)
}, 180_000)
