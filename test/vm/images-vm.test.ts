// VMs that are made from a template, through the real service: they share one file, and outlive the cache.
import { readFile, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Template } from '../../src/config/index.ts'
import { tempDir } from '../support/temp.ts'
import { type Bed, failure, hear, order, spec, vmBed } from './bed.ts'
import { imageServer, rawDisk } from './image-server.ts'

let bed: Bed
beforeAll(async () => {
  bed = await vmBed()
})
afterAll(() => bed?.[Symbol.asyncDispose]())

const GIB = 2 ** 30

test('two VMs on one template, a changed template, an image that is in use, and a cache that is lost', async () => {
  const body = rawDisk(2 << 20)
  await using server = await imageServer({ body })
  const templates: Record<string, Template> = { tiny: { url: server.url } }
  await using room = await bed.room({ config: (c) => Object.assign(c, { templates }) })
  const { vms } = room
  const create = async (name: string, more: object = {}) => {
    const h = hear()
    const s = { ...spec(name, { image: '', copy: 'overlay', start: false, disk_bytes: GIB }), ...more }
    const made = await vms.create(order(), { ...s, boot: { from: 'template', template: 'tiny' } }, h)
    return { made, h, base: join(room.dir, name, 'base.raw'), disk: join(room.dir, name, 'disk.qcow2') }
  }
  const one = await create('one')
  expect(one.h.phases).toContain('image')
  expect(one.h.messages.join('\n')).toMatch(/downloads/)
  const two = await create('two', { start: true })
  expect(server.requests).toHaveLength(1)
  const [image] = await vms.images.list()
  expect(image).toMatchObject({ name: 'tiny', in_use: 2, format: 'raw' })
  expect((await stat(one.base)).ino).toBe((await stat(two.base)).ino)
  const info = JSON.parse((await execa('qemu-img', ['info', '-U', '--output=json', two.disk])).stdout)
  expect(info).toMatchObject({
    'virtual-size': GIB,
    'full-backing-filename': two.base,
    'backing-filename-format': 'raw',
  })
  expect(await bed.virsh('domstate', 'two')).toBe('running')

  const used = await failure(vms.images.remove('tiny', { vm_dirs: [room.dir] }))
  expect(used.message).toContain('is used by the VMs one, two')

  // another version in the configuration: the next VM gets it, the others keep theirs
  server.behave = { body: rawDisk(2 << 20) }
  templates.tiny = { url: `${server.url}?v=2` }
  const three = await create('three')
  expect((await stat(three.base)).ino).not.toBe((await stat(one.base)).ino)
  expect((await vms.images.list()).map((i) => [i.current, i.in_use])).toEqual([
    [true, 1],
    [false, 2],
  ])

  // the whole cache is lost: nobody minds
  await rm(vms.images.dir, { recursive: true })
  await bed.virsh('destroy', 'two')
  expect((await vms.start(order(), 'two', { address_timeout_ms: 0 }, hear())).vm).toMatchObject({ state: 'running' })
  expect((await readFile(one.base)).equals(body)).toBe(true)
  for (const name of ['one', 'two', 'three'])
    await vms.remove(order(), name, { keep_disks: false, force: true, grace_ms: 0 }, hear())
})

test('a template that cannot be had leaves nothing of the VM, and says why', async () => {
  await using server = await imageServer({ body: rawDisk(1 << 20), status: 404 })
  await using dir = await tempDir()
  const hostile = join(dir.path, 'hostile.qcow2')
  await execa('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', '/etc/passwd', '-F', 'raw', hostile])
  const templates: Record<string, Template> = { away: { url: server.url }, hostile: { path: hostile } }
  await using room = await bed.room({ config: (c) => Object.assign(c, { templates }) })
  const create = (template: string) => {
    const s = spec('x', { image: '', copy: 'overlay', disk_bytes: GIB })
    return failure(room.vms.create(order(), { ...s, boot: { from: 'template', template } }, hear()))
  }
  expect(await create('away')).toMatchObject({ code: 'image-download', transient: false, phase: 'image' })
  expect(await create('hostile')).toMatchObject({ code: 'image-invalid', phase: 'image' })
  expect(await create('nothing')).toMatchObject({ code: 'image-not-found', phase: 'image' })
  expect(await room.traces('x')).toMatchObject({ domain: false, files: [], promises: 0 })
  expect(await room.vms.images.list()).toEqual([])
})
