// The actions of a VM through the real service, on QEMU: what they do, and that a second time they do nothing.
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { until } from '../support/wait.ts'
import { type Bed, blankDisk, failure, GONE, hear, order, spec, vmBed } from './bed.ts'

let bed: Bed
beforeAll(async () => {
  bed = await vmBed()
})
afterAll(() => bed?.[Symbol.asyncDispose]())

describe('a VM from a disk', () => {
  test('is created, stopped, started, restarted and deleted, and says what was done', async () => {
    await using room = await bed.room()
    const image = await blankDisk(join(room.temp.path, 'blank.raw'))
    const h = hear()
    const made = await room.vms.create(order(), spec('one', { image }), h)
    expect(made.summary).toBe('The VM "one" was created and started.')
    expect(h.phases).toEqual(['admit', 'disks', 'define', 'start'])
    expect(made.vm).toMatchObject({ state: 'running', desired: 'running', origin: 'vm', accelerator: 'qemu' })
    expect(made.vm?.doing).toBeUndefined()
    expect(await bed.virsh('domstate', 'one')).toBe('running')
    // the image may go: the VM depends on none of its names
    expect(made.vm?.disks).toMatchObject([
      { id: 'disk', format: 'qcow2', path: join(room.dir, 'one/disk.qcow2'), size_bytes: 4 * 2 ** 20 },
    ])

    const stopped = await room.vms.stop(order(), 'one', { force: true, grace_ms: 0 }, hear())
    expect(stopped.summary).toBe('The VM "one" was stopped by pulling the plug.')
    expect(stopped.vm).toMatchObject({ state: 'stopped', desired: 'stopped' })
    expect(await bed.virsh('domstate', 'one')).toBe('shut off')
    const again = await room.vms.stop(order(), 'one', { force: true, grace_ms: 0 }, hear())
    expect(again).toMatchObject({ unchanged: true, summary: 'The VM "one" is stopped already.' })

    const started = await room.vms.start(order(), 'one', { address_timeout_ms: 0 }, hear())
    expect(started.vm).toMatchObject({ state: 'running', desired: 'running' })
    expect(started.unchanged).toBeUndefined()
    expect(await room.vms.start(order(), 'one', { address_timeout_ms: 0 }, hear())).toMatchObject({
      unchanged: true,
      summary: 'The VM "one" runs already.',
    })
    const id = await bed.virsh('domid', 'one')
    const restarted = await room.vms.restart(
      order(),
      'one',
      { force: true, grace_ms: 0, address_timeout_ms: 0 },
      hear(),
    )
    expect(restarted.summary).toBe('The VM "one" was restarted.')
    expect(await bed.virsh('domid', 'one')).not.toBe(id)

    const removed = await room.vms.remove(order(), 'one', { keep_disks: false, force: true, grace_ms: 0 }, hear())
    expect(removed.summary).toBe('The VM "one" was deleted.')
    expect(await room.traces('one')).toEqual(GONE)
    await expect(stat(join(room.dir, 'one'))).rejects.toThrow('ENOENT')
    const nothing = await room.vms.remove(order(), 'one', { keep_disks: false, force: true, grace_ms: 0 }, hear())
    expect(nothing).toMatchObject({ unchanged: true })
    expect(nothing.summary).toContain('Nothing had to be deleted')
  })

  test('has thin and further disks, a seed, UEFI, cards with addresses of its own', async () => {
    await using room = await bed.room()
    await bed.libvirtd.natNetwork('lan')
    const image = await blankDisk(join(room.temp.path, 'blank.raw'))
    const more = await blankDisk(join(room.temp.path, 'more.raw'), 2)
    const made = await room.vms.create(
      order(),
      spec('rich', {
        image,
        copy: 'overlay',
        disk_bytes: 8 * 2 ** 20,
        disks: [
          { size_bytes: 3 * 2 ** 20, format: 'raw' },
          { file: { path: more, format: 'raw', import_roots: ['/'] }, format: 'qcow2' },
        ],
        nics: [
          { network: 'lan', model: 'virtio' },
          { network: 'lan', mac: '52:54:00:aa:bb:cc', model: 'e1000e' },
        ],
        cloud_init: { hostname: 'rich', user: 'ops', ssh_keys: ['ssh-ed25519 AAAA ops'] },
        firmware: 'uefi',
        memory_bytes: 128 * 2 ** 20,
        start: true,
      }),
      hear(),
    )
    const folder = join(room.dir, 'rich')
    expect(made.vm?.disks.map(({ id, path, size_bytes, target }) => [id, path, size_bytes, target])).toEqual([
      ['disk', join(folder, 'disk.qcow2'), 8 * 2 ** 20, 'vda'],
      ['data1', join(folder, 'data1.raw'), 3 * 2 ** 20, 'vdb'],
      ['data2', join(folder, 'data2.qcow2'), 2 * 2 ** 20, 'vdc'],
    ])
    expect(made.vm?.disks[0]?.base).toEqual({ path: join(folder, 'base.raw'), format: 'raw' })
    const { nics } = made.vm!
    expect(nics[0]?.mac).toMatch(/^52:54:00:/)
    expect(nics[1]?.mac).toBe('52:54:00:aa:bb:cc')
    expect(await bed.virsh('domiflist', 'rich')).toContain(nics[0]!.mac)
    expect((await stat(folder)).mode & 0o777).toBe(0o711)
    const seed = await readFile(join(folder, 'seed.iso'))
    expect(seed.includes('ssh-ed25519 AAAA ops')).toBe(true)
    expect((await stat(join(folder, 'nvram.fd'))).size).toBeGreaterThan(0)
    await room.vms.remove(order(), 'rich', { keep_disks: false, force: true, grace_ms: 0 }, hear())
    expect(await room.traces('rich')).toEqual(GONE)
    // the same name has the same address again
    const anew = await room.vms.create(
      order(),
      spec('rich', { image, nics: [{ network: 'lan', model: 'virtio' }], start: false }),
      hear(),
    )
    expect(anew.vm?.nics[0]?.mac).toBe(nics[0]?.mac)
    expect(anew.vm).toMatchObject({ state: 'stopped', desired: 'stopped' })
    await room.vms.remove(order(), 'rich', { keep_disks: false, force: true, grace_ms: 0 }, hear())
  })

  test('asked for again is the same VM; asked for otherwise is a conflict', async () => {
    await using room = await bed.room()
    const image = await blankDisk(join(room.temp.path, 'blank.raw'))
    const first = await room.vms.create(order(), spec('twice', { image }), hear())
    const uuid = await bed.virsh('domuuid', 'twice')
    const again = await room.vms.create(order(), spec('twice', { image }), hear())
    expect(again).toMatchObject({ unchanged: true, vm: { uuid: first.vm!.uuid } })
    expect(again.summary).toContain('exists already, as it is asked for')
    const e = await failure(room.vms.create(order(), spec('twice', { image, vcpus: 2 }), hear()))
    expect(e.code).toBe('vm-conflict')
    expect(e.message).toContain('created with other settings')
    expect(await bed.virsh('domuuid', 'twice')).toBe(uuid)
    expect(await bed.virsh('domstate', 'twice')).toBe('running')
    await room.vms.remove(order(), 'twice', { keep_disks: false, force: true, grace_ms: 0 }, hear())
  })

  test('keeps its disks on request, and nothing is made over them', async () => {
    await using room = await bed.room()
    const image = await blankDisk(join(room.temp.path, 'blank.raw'))
    const words = { image, cloud_init: { hostname: 'kept' } }
    await room.vms.create(order(), spec('kept', words), hear())
    const removed = await room.vms.remove(order(), 'kept', { keep_disks: true, force: true, grace_ms: 0 }, hear())
    expect(removed.summary).toBe(`The VM "kept" was deleted. Kept: ${join(room.dir, 'kept/disk.qcow2')}.`)
    const { files, ...rest } = await room.traces('kept')
    expect(rest).toEqual({ domain: false, entry: false, promises: 0 })
    expect(files).toContain('disk.qcow2')
    expect(files).not.toContain('seed.iso')
    const before = await stat(join(room.dir, 'kept/disk.qcow2'))
    const e = await failure(room.vms.create(order(), spec('kept', words), hear()))
    expect(e).toMatchObject({ code: 'vm-conflict' })
    expect(e.message).toContain('disks that were kept')
    expect((await stat(join(room.dir, 'kept/disk.qcow2'))).mtimeMs).toBe(before.mtimeMs)
  })

  test('that the registry lost is deleted by the mark on its domain', async () => {
    await using room = await bed.room()
    const image = await blankDisk(join(room.temp.path, 'blank.raw'))
    await room.vms.create(order(), spec('lost', { image }), hear())
    await room.vms.registry.update('lost', () => undefined)
    const removed = await room.vms.remove(order(), 'lost', { keep_disks: false, force: true, grace_ms: 0 }, hear())
    expect(removed.summary).toBe('The VM "lost" was deleted.')
    expect(await room.traces('lost')).toEqual(GONE)
  })

  test('of Ghost Agent, whose domain has no mark, is known by its entry, and its disk goes with it', async () => {
    await using room = await bed.room()
    const disks = join(room.temp.path, 'ghost/disks')
    await mkdir(disks, { recursive: true })
    const disk = await blankDisk(join(disks, 'old-1.qcow2'))
    await blankDisk(join(disks, 'old-2.qcow2'))
    const xml = join(room.temp.path, 'old-1.xml')
    await writeFile(
      xml,
      `<domain type='qemu'><name>old-1</name><memory unit='MiB'>32</memory><os><type arch='x86_64' machine='q35'>hvm</type></os>
       <devices><disk type='file'><driver type='raw'/><source file='${disk}'/><target dev='vda' bus='virtio'/></disk></devices></domain>`,
    )
    await bed.virsh('define', xml)
    const now = new Date().toISOString()
    const uuid = await bed.virsh('domuuid', 'old-1')
    await room.vms.registry.update('old-1', () => ({
      ...{ uuid, name: 'old-1', host: 'here', uri: bed.uri, desired: 'running', order: { job: 'ghost', epoch: 0 } },
      ...{ origin: 'ghost', vcpus: 1, memory_bytes: 32 * 2 ** 20, nics: [], firmware: 'bios', machine: 'q35' },
      disks: [{ id: 'disk', path: disk, format: 'raw', size_bytes: 4 * 2 ** 20 }],
      ...{ accelerator: 'qemu', autostart: false, metadata: {}, state: 'stopped', state_at: now, addresses: [] },
      ...{ created_at: now, updated_at: now },
    }))
    expect((await room.vms.start(order(), 'old-1', { address_timeout_ms: 0 }, hear())).vm?.state).toBe('running')
    await room.vms.remove(order(), 'old-1', { keep_disks: false, force: true, grace_ms: 0 }, hear())
    expect(await room.traces('old-1')).toEqual(GONE)
    expect(await readdir(disks)).toEqual(['old-2.qcow2'])
  })

  test('with snapshots, a managed save or paused is stopped and deleted all the same', async () => {
    await using room = await bed.room()
    const image = await blankDisk(join(room.temp.path, 'blank.raw'))
    await room.vms.create(order(), spec('saved', { image }), hear())
    await bed.virsh('snapshot-create-as', 'saved', 'before')
    await bed.virsh('suspend', 'saved')
    expect((await room.vms.start(order(), 'saved', { address_timeout_ms: 0 }, hear())).vm?.state).toBe('running')
    expect(await bed.virsh('domstate', 'saved')).toBe('running')
    await bed.virsh('suspend', 'saved')
    const stopped = await room.vms.stop(order(), 'saved', { force: false, grace_ms: 1000 }, hear())
    expect(stopped.vm?.state).toBe('stopped')
    expect(stopped.warnings.join()).toContain('did not stop within 1 s')
    await room.vms.start(order(), 'saved', { address_timeout_ms: 0 }, hear())
    await bed.virsh('managedsave', 'saved')
    await room.vms.remove(order(), 'saved', { keep_disks: false, force: false, grace_ms: 1000 }, hear())
    expect(await room.traces('saved')).toEqual(GONE)
  })

  test('whose guest sleeps is not said to run, is stopped, and starts anew', async () => {
    await using room = await bed.room()
    // A boot sector that asks QEMU's power management (0x604) for S3 at once, which our domains do not offer by themselves.
    const image = await blankDisk(join(room.temp.path, 'sleeper.raw'))
    const sector = Buffer.alloc(512)
    Buffer.from('faba0406b80024eff4ebfd', 'hex').copy(sector)
    sector.writeUInt16LE(0xaa55, 510)
    await writeFile(image, sector, { flag: 'r+' })
    await room.vms.create(order(), spec('sleeper', { image, start: false }), hear())
    const xml = join(room.temp.path, 'sleeper.xml')
    const text = await bed.virsh('dumpxml', 'sleeper')
    await writeFile(xml, text.replace("<suspend-to-mem enabled='no'/>", "<suspend-to-mem enabled='yes'/>"))
    await bed.virsh('define', xml)
    const start = () => room.vms.start(order(), 'sleeper', { address_timeout_ms: 0 }, hear())
    await start()
    const asleep = () => until('it sleeps', async () => (await bed.virsh('domstate', 'sleeper')) === 'pmsuspended')
    await asleep()
    const e = await failure(start())
    expect(e).toMatchObject({ code: 'guest-start', message: expect.stringContaining('has put itself to sleep') })
    await room.vms.stop(order(), 'sleeper', { force: false, grace_ms: 500 }, hear())
    expect(await bed.virsh('domstate', 'sleeper')).toBe('shut off')
    await start()
    await asleep()
    await room.vms.remove(order(), 'sleeper', { keep_disks: false, force: true, grace_ms: 0 }, hear())
    expect(await room.traces('sleeper')).toEqual(GONE)
  })
})

describe('what is not ours', () => {
  const foreign = (name: string) =>
    `<domain type='qemu'><name>${name}</name><memory unit='MiB'>32</memory><os><type arch='x86_64' machine='q35'>hvm</type></os></domain>`

  test('a foreign domain of that name is never touched, by no action', async () => {
    await using room = await bed.room()
    const image = await blankDisk(join(room.temp.path, 'blank.raw'))
    await mkdir(join(room.temp.path, 'x'), { recursive: true })
    const file = join(room.temp.path, 'foreign.xml')
    await writeFile(file, foreign('theirs'))
    await bed.virsh('define', file)
    await bed.virsh('start', 'theirs')
    const before = await bed.virsh('dumpxml', 'theirs')
    const { vms } = room
    for (const [what, work] of Object.entries({
      create: () => vms.create(order(), spec('theirs', { image }), hear()),
      start: () => vms.start(order(), 'theirs', { address_timeout_ms: 0 }, hear()),
      stop: () => vms.stop(order(), 'theirs', { force: true, grace_ms: 0 }, hear()),
      restart: () => vms.restart(order(), 'theirs', { force: true, grace_ms: 0, address_timeout_ms: 0 }, hear()),
      delete: () => vms.remove(order(), 'theirs', { keep_disks: false, force: true, grace_ms: 0 }, hear()),
    })) {
      const e = await failure(work())
      expect(e.code, what).toBe('vm-conflict')
      expect(e.message, what).toContain('it was not touched')
    }
    expect(await bed.virsh('dumpxml', 'theirs')).toBe(before)
    expect(await room.traces('theirs')).toEqual({ ...GONE, domain: true })
    await bed.virsh('destroy', 'theirs')
    await bed.virsh('undefine', 'theirs')
  })

  test('a VM of another instance is foreign too, also of one that is called alike and lies elsewhere', async () => {
    await using one = await bed.room()
    await using other = await bed.room()
    await using alike = await bed.room({ instance: one.instance })
    const image = await blankDisk(join(one.temp.path, 'blank.raw'))
    await one.vms.create(order(), spec('shared', { image }), hear())
    for (const room of [other, alike]) {
      const how = { keep_disks: false, force: true, grace_ms: 0 }
      expect(await failure(room.vms.remove(order(), 'shared', how, hear()))).toMatchObject({ code: 'vm-conflict' })
      expect(await failure(room.vms.create(order(), spec('shared', { image }), hear()))).toMatchObject({
        code: 'vm-conflict',
      })
    }
    expect(await bed.virsh('domstate', 'shared')).toBe('running')
    await one.vms.remove(order(), 'shared', { keep_disks: false, force: true, grace_ms: 0 }, hear())
  })

  test('of what there is nothing, start, stop and restart say so', async () => {
    await using room = await bed.room()
    for (const work of [
      room.vms.start(order(), 'nobody', { address_timeout_ms: 0 }, hear()),
      room.vms.stop(order(), 'nobody', { force: true, grace_ms: 0 }, hear()),
      room.vms.restart(order(), 'nobody', { force: true, grace_ms: 0, address_timeout_ms: 0 }, hear()),
    ]) {
      expect(await failure(work)).toMatchObject({ code: 'vm-not-found', transient: false })
    }
  })
})
