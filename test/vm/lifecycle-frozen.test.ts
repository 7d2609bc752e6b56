// Guests that do not stop when they are asked to: one that notices nothing, and a QEMU that answers nobody. Most of the time is waiting.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Bed, blankDisk, GONE, hear, order, spec, vmBed } from './bed.ts'

let bed: Bed
beforeAll(async () => {
  bed = await vmBed()
})
afterAll(() => bed?.[Symbol.asyncDispose]())

test.concurrent('a guest that does not notice the power button is asked again, and at last the plug is pulled', async () => {
  await using room = await bed.room()
  const image = await blankDisk(join(room.temp.path, 'blank.raw'))
  await room.vms.create(order(), spec('deaf', { image }), hear())
  const h = hear()
  // asked at once and after 10 s: between that and the third time both ends are far
  const removed = await room.vms.remove(order(), 'deaf', { keep_disks: false, force: false, grace_ms: 19_000 }, h)
  expect(h.messages).toContain('waits for the guest to stop, 19 s at most; asked 2 times')
  expect(h.messages.join()).not.toContain('asked 3 times')
  expect(removed.warnings.join()).toContain('did not stop within 19 s')
  expect(await room.traces('deaf')).toEqual(GONE)
}, 600_000)

test.concurrent('a VM whose QEMU hangs is stopped and deleted', async () => {
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
}, 600_000)
