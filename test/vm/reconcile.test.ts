// Registry, libvirt and files: what is made of their differences, with a real QEMU and its real daemon.
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { uuidOfVm } from '../../src/domain/index.ts'
import { keepConnected } from '../../src/libvirt/index.ts'
import { orphanMemory, trashFolder } from '../../src/vm/orphans.ts'
import { reconcile, reconcileOne, type Reconciled, type ReconcileOptions } from '../../src/vm/reconcile.ts'
import { testDomain } from '../libvirt/scene.ts'
import { isRoot, sessionLibvirtd } from '../support/libvirtd.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'
import { type Bed, blankDisk, GONE, hear, order, type Room, spec, vmBed } from './bed.ts'
import { INSTANCE, open, record } from './records.ts'

/** A boot sector whose guest switches itself off: it writes SLP_TYP S5 and SLP_EN to PM1a_CNT, where SeaBIOS puts it on q35 (0x604). */
const OFF = [0xfa, 0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4, 0xeb, 0xfd]
async function offDisk(path: string): Promise<string> {
  const sector = Buffer.alloc(4 * 2 ** 20)
  sector.set(OFF)
  sector.writeUInt16LE(0xaa55, 510)
  await writeFile(path, sector)
  return path
}

/** What the agent is for reconciliation: its jobs, and its memory of leftovers. */
interface Eyes {
  look(): Promise<Reconciled>
  event(uuid: string): ReturnType<typeof reconcileOne>
  o: { boot_id: string; busy: Set<string>; running: Set<string>; hostStops: boolean }
  notes: string[]
}

function eyes(room: Room): Eyes {
  const o = { boot_id: 'boot-1', busy: new Set<string>(), running: new Set<string>(), hostStops: false }
  const notes: string[] = []
  const remember = orphanMemory()
  const signal = new AbortController().signal
  const use = <T>(fn: (options: ReconcileOptions) => Promise<T>): Promise<T> =>
    room.vms.link.use(
      (session) =>
        fn({
          registry: room.vms.registry,
          session,
          dir: room.dir,
          uri: room.vms.link.uri,
          boot_id: o.boot_id,
          hostStops: async () => o.hostStops,
          jobs: { busy: async (name) => o.busy.has(name), over: async (id) => !o.running.has(id) },
          remember,
          signal,
          log: (_, event, f) => void notes.push(`${event} ${f.name}${f.message ? `: ${f.message}` : ''}`),
        }),
      { signal, what: 'to compare' },
    )
  return { look: () => use(reconcile), event: (uuid) => use((x) => reconcileOne(x, uuid)), o, notes }
}
const drift = (r: { drift: Reconciled['drift'] }) => r.drift.map((d) => `${d.name} ${d.kind}`)
const names = (records: readonly { name: string }[]) => records.map((r) => r.name)
const entry = async (room: Room, name: string) => (await room.vms.registry.get(name))!

describe.runIf(isRoot)('reconciliation', { timeout: 600_000 }, () => {
  let bed: Bed
  beforeAll(async () => {
    bed = await vmBed()
  })
  afterAll(() => bed?.[Symbol.asyncDispose]())

  /** VMs with a disk that boots nothing, and stay up */
  async function made(room: Room, ...vms: string[]): Promise<void> {
    const image = await blankDisk(join(room.temp.path, 'blank.raw'))
    for (const name of vms) await room.vms.create(order(), spec(name, { image }), hear())
  }
  const end = (room: Room, ...vms: string[]) =>
    Promise.all(
      vms.map((name) => room.vms.remove(order(), name, { keep_disks: false, force: true, grace_ms: 0 }, hear())),
    )
  /** the power of the host fails: daemon and guests end at once, and what lay in memory (/run) is gone */
  async function powerFails(): Promise<void> {
    await bed.libvirtd.signal('KILL')
    await bed.libvirtd.inside([
      'sh',
      '-c',
      'pkill -9 -f ^/usr/bin/qemu-system; while pgrep -f ^/usr/bin/qemu-system; do sleep 0.05; done; rm -rf /run/libvirt/qemu/*',
    ])
  }

  test('after the host was started anew what should run with it is started, and the rest is not', async () => {
    await using room = await bed.room()
    await made(room, 'a', 'b', 'c')
    await room.vms.stop(order(), 'c', { force: true, grace_ms: 0 }, hear())
    await room.vms.registry.update('a', (r) => ({ ...r!, autostart: true }))
    const e = eyes(room)
    expect(await e.look()).toMatchObject({ drift: [], toStart: [], orphans: [], recovered: [] })
    expect((await entry(room, 'a')).boot_id).toBe('boot-1')

    await powerFails()
    await bed.libvirtd.start()
    e.o.boot_id = 'boot-2'
    const first = await e.look()
    expect([names(first.toStart), drift(first)]).toEqual([['a'], []])
    expect(await entry(room, 'a')).toMatchObject({
      desired: 'running',
      state: 'stopped',
      state_reason: 'unknown',
      starts: { count: 1 },
    })
    expect(await entry(room, 'b')).toMatchObject({ desired: 'stopped', state: 'stopped' })
    expect(e.notes.filter((n) => n.includes('autostart'))).toHaveLength(1)
    // its job is under way: nobody starts it a second time
    e.o.busy.add('a')
    expect((await e.look()).toStart).toEqual([])
    await room.vms.start(order(), 'a', { address_timeout_ms: 0 }, hear())
    e.o.busy.clear()
    expect(await e.look()).toMatchObject({ drift: [], toStart: [] })
    expect(await bed.virsh('list', '--name')).toBe('a')

    // the same without a new start of the host: whoever ran is started
    await room.vms.start(order(), 'b', { address_timeout_ms: 0 }, hear())
    await e.look()
    await room.vms.registry.update('a', (r) => ({ ...r!, starts: { count: 3, at: new Date().toISOString() } }))
    await powerFails()
    await bed.libvirtd.start()
    expect(drift(await e.look())).toEqual(['a not-running']) // it was started only just
    expect((await entry(room, 'b')).starts?.count).toBe(1)
    await end(room, 'a', 'b', 'c')
  })

  test('who may stop a VM: its guest and virsh may, a crash may not', async () => {
    await using room = await bed.room()
    const e = eyes(room)
    await room.vms.create(order(), spec('off', { image: await offDisk(join(room.temp.path, 'off.raw')) }), hear())
    await made(room, 'plug', 'crash')
    await until('the guest is off', async () => (await bed.virsh('domstate', 'off')) === 'shut off')
    const { uuid } = await entry(room, 'off')
    expect(await e.event(uuid)).toEqual({ name: 'off', drift: [], toStart: [] })
    expect(await entry(room, 'off')).toMatchObject({ desired: 'stopped', state: 'stopped', state_reason: 'shutdown' })
    expect(await e.event('00000000-0000-4000-8000-000000000000')).toBeUndefined()

    await bed.virsh('destroy', 'plug')
    // as long as the host goes down that says nothing
    e.o.hostStops = true
    await e.look()
    expect(await entry(room, 'plug')).toMatchObject({ desired: 'running', state: 'stopped' })
    e.o.hostStops = false
    await e.look()
    expect(await entry(room, 'plug')).toMatchObject({ desired: 'stopped', state_reason: 'destroyed' })
    await bed.virsh('start', 'plug')
    expect(drift(await e.look())).toEqual(['plug running-but-should-not'])
    expect(await entry(room, 'plug')).toMatchObject({ desired: 'stopped', state: 'running' })

    await bed.libvirtd.inside(['pkill', '-9', '-f', 'guest=crash,'])
    await until('libvirt has seen it', async () => (await bed.virsh('domstate', 'crash')) === 'shut off')
    const crashed = (await e.event((await entry(room, 'crash')).uuid))!
    expect([names(crashed.toStart), (await entry(room, 'crash')).state_reason]).toEqual([['crash'], 'crashed'])
    await end(room, 'off', 'plug', 'crash')
  })

  test('what differs is shown, and what is not ours is not touched', async () => {
    await using room = await bed.room()
    await using other = await bed.room()
    const e = eyes(room)
    await made(room, 'gone', 'disk', 'name')
    await made(other, 'theirs')
    const { uuid } = await entry(room, 'gone')
    for (const vm of ['gone', 'disk', 'name']) await room.vms.stop(order(), vm, { force: true, grace_ms: 0 }, hear())
    await bed.virsh('undefine', 'gone')
    await rm(join(room.dir, 'disk/disk.qcow2'))
    await bed.virsh('domrename', 'name', 'nom')
    const r = await e.look()
    expect(drift(r).sort()).toEqual(['disk missing-disk', 'gone missing-domain', 'name renamed'])
    expect(r.drift.find((d) => d.kind === 'missing-domain')!.message).toContain(uuid)
    expect([r.orphans, (await entry(room, 'gone')).state]).toEqual([[], 'missing'])
    // somebody else's domain takes the name
    const xml = `<domain type='qemu'><name>gone</name><memory unit='MiB'>16</memory><os><type arch='x86_64'>hvm</type></os></domain>`
    await writeFile(join(room.temp.path, 'gone.xml'), xml)
    await bed.virsh('define', join(room.temp.path, 'gone.xml'))
    const before = await bed.virsh('dumpxml', 'gone')
    expect(drift(await e.look())).toContain('gone foreign-domain')
    expect(drift(await e.look())).not.toContain('theirs orphan-domain')
    expect(await bed.virsh('dumpxml', 'gone')).toBe(before)
    await bed.virsh('domrename', 'nom', 'name')
    await bed.virsh('undefine', 'gone')
    await end(room, 'gone', 'disk', 'name')
    await end(other, 'theirs')
  })

  test('leftovers are listed after a second look, and can be removed', async () => {
    await using room = await bed.room()
    const e = eyes(room)
    await made(room, 'left')
    await e.look()
    await room.vms.registry.update('left', () => undefined)
    await mkdir(join(room.dir, 'scrap/deep'), { recursive: true })
    await mkdir(join(room.dir, 'busy'))
    e.o.busy.add('busy')
    const first = await e.look()
    expect(first.orphans.map((o) => [o.kind, o.name, o.passes, o.running])).toEqual([
      ['domain', 'left', 1, true],
      ['folder', 'scrap', 1, undefined],
    ])
    const [, scrap] = first.orphans
    await expect(trashFolder(room.vms.registry, room.dir, scrap!)).rejects.toMatchObject({ code: 'vm-conflict' })
    const second = await e.look()
    expect(second.orphans.map((o) => [o.name, o.passes, o.since])).toEqual([
      ['left', 2, first.at],
      ['scrap', 2, first.at],
    ])
    expect(drift(second)).toEqual(['left orphan-domain', 'scrap orphan-folder'])
    const to = await trashFolder(room.vms.registry, room.dir, second.orphans[1]!)
    expect([await readdir(to), to.startsWith(join(room.dir, '.trash/'))]).toEqual([['deep'], true])
    // a domain is removed by a delete job, as if it were in the registry
    await end(room, 'left')
    expect(await room.traces('left')).toEqual(GONE)
    expect((await e.look()).orphans).toEqual([])
    // one that the registry names meanwhile is no leftover
    await made(room, 'back')
    const folder = { kind: 'folder' as const, name: 'back', since: first.at, passes: 9 }
    await expect(trashFolder(room.vms.registry, room.dir, folder)).rejects.toMatchObject({ code: 'vm-conflict' })
    await end(room, 'back')
  })

  test('a registry that is lost is found again in libvirt, with all that an entry needs', async () => {
    await using room = await bed.room()
    await made(room, 'one')
    // this one lies on top of an image
    const image = await blankDisk(join(room.temp.path, 'blank.raw'))
    await room.vms.create(order(), spec('two', { image, copy: 'overlay', disk_bytes: 6 * 2 ** 20 }), hear())
    const [overlay] = (await entry(room, 'two')).disks
    await room.vms.stop(order(), 'two', { force: true, grace_ms: 0 }, hear())
    const before = await entry(room, 'one')
    await writeFile(room.vms.registry.path, 'null')
    await rm(`${room.vms.registry.path}.bak`)
    expect(await room.vms.list()).toEqual([])
    const e = eyes(room)
    const r = await e.look()
    expect([r.recovered.sort(), r.orphans, drift(r)]).toEqual([['one', 'two'], [], []])
    const { uuid, vcpus, memory_bytes, firmware, machine, accelerator, nics, order: by } = before
    expect(await entry(room, 'one')).toMatchObject({
      ...{ uuid, vcpus, memory_bytes, firmware, machine, accelerator, nics, order: by },
      disks: before.disks.map(({ id, path, format, size_bytes }) => ({ id, path, format, size_bytes })),
      origin: 'recovered',
      desired: 'running',
      state: 'running',
    })
    const { path, format, size_bytes, base } = overlay!
    expect(base).toBeDefined()
    expect(await entry(room, 'two')).toMatchObject({
      ...{ desired: 'stopped', state: 'stopped' },
      disks: [{ path, format, size_bytes, base }],
    })
    expect((await e.look()).recovered).toEqual([])
    await end(room, 'one', 'two')
    expect(await room.traces('one')).toEqual(GONE)
  })

  test('what an agent began and nobody goes on with is ended or shown, before anything is started', async () => {
    await using room = await bed.room()
    const e = eyes(room)
    await made(room, 'del', 'stop')
    await e.look()
    const since = new Date().toISOString()
    await room.vms.registry.update('del', (r) => ({
      ...r!,
      desired: 'deleted',
      doing: { action: 'delete', phase: 'stop', job: 'j1', epoch: 1, since, was: 'running' },
    }))
    await room.vms.registry.update('stop', (r) => ({
      ...r!,
      desired: 'stopped',
      doing: { action: 'stop', phase: 'stop', job: 'j2', epoch: 1, since, was: 'running' },
    }))
    e.o.running.add('j1').add('j2')
    await bed.libvirtd.inside(['pkill', '-9', '-f', 'guest=del,'])
    await until('libvirt has seen it', async () => (await bed.virsh('domstate', 'del')) === 'shut off')
    expect(await e.look()).toMatchObject({ drift: [], toStart: [] })
    e.o.running.clear()
    const r = await e.look()
    expect([names(r.toStart), drift(r)]).toEqual([[], ['del stale-doing']])
    // the guest runs on: it was never stopped
    expect(await entry(room, 'stop')).toMatchObject({ desired: 'running', last: { action: 'stop', outcome: 'failed' } })
    expect((await entry(room, 'stop')).doing).toBeUndefined()
    await end(room, 'del', 'stop')
    expect(await e.look()).toMatchObject({ drift: [], orphans: [] })
  })

  test('a VM of Ghost Agent is the domain of that name on that disk, and obeys', async () => {
    await using room = await bed.room()
    const disk = await blankDisk(join(room.temp.path, 'old.qcow2'))
    const domain = (name: string, path: string) =>
      `<domain type='qemu'><name>${name}</name><memory unit='MiB'>24</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='pc'>hvm</type></os>` +
      `<devices><disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='${path}'/><target dev='vda' bus='virtio'/></disk></devices></domain>`
    const twin = await blankDisk(join(room.temp.path, 'twin.qcow2'))
    for (const [name, path] of [
      ['old', disk],
      ['twin', twin],
    ] as const) {
      await writeFile(join(room.temp.path, 'd.xml'), domain(name, path))
      await bed.virsh('define', join(room.temp.path, 'd.xml'))
    }
    await bed.virsh('start', 'old')
    const one = (name: string, path: string) => ({
      ID: name,
      Name: name,
      VCPU: 2,
      RAMGB: 4,
      DiskGB: 10,
      Status: 'running',
      DiskPath: path,
    })
    await writeFile(
      room.vms.registry.path,
      JSON.stringify({ old: one('old', disk), twin: one('twin', '/elsewhere.qcow2') }),
    )
    const e = eyes(room)
    expect(drift(await e.look()).sort()).toEqual(['twin foreign-domain', 'twin missing-disk'])
    const uuid = await bed.virsh('domuuid', 'old')
    expect(await entry(room, 'old')).toMatchObject({
      uuid,
      origin: 'ghost',
      memory_bytes: 24 * 2 ** 20,
      machine: 'pc',
      disks: [{ id: 'old', path: disk, format: 'raw', target: 'vda', size_bytes: 10 * 2 ** 30 }],
      state: 'running',
      desired: 'running',
    })
    await room.vms.stop(order(), 'old', { force: true, grace_ms: 0 }, hear())
    expect(await bed.virsh('domstate', 'old')).toBe('shut off')
    expect(await e.look()).toMatchObject({ toStart: [] })
    expect(await readFile(disk)).toHaveLength(4 * 2 ** 20)
    for (const name of ['old', 'twin']) await bed.virsh('undefine', name)
  })
})

/** The same on libvirt's test driver, which has other answers to some questions, and for everyone. */
test('on a driver that is not QEMU', async () => {
  await using daemon = await sessionLibvirtd()
  await using dir = await tempDir()
  const uri = `test:///default?socket=${daemon.socket}`
  await using link = keepConnected(uri)
  const session = await link.session()
  const registry = await open(dir.path)
  const remember = orphanMemory()
  const jobs = { busy: async () => false, over: async () => true }
  const look = () =>
    reconcile({
      ...{ registry, session, dir: dir.path, uri, boot_id: 'boot', jobs, remember, log: () => {} },
      signal: new AbortController().signal,
    })
  const { control, query } = session
  const mark = (name: string, o: { instance?: string; dir?: string } = {}) =>
    `<metadata><v:vm xmlns:v='urn:vmspool:domain:1' instance='${o.instance ?? INSTANCE}' dir='${o.dir ?? dir.path}' name='${name}'><v:job id='j' epoch='3'/></v:vm></metadata>`
  const define = (name: string, more: string) =>
    control.domains.define(testDomain(name, { uuid: uuidOfVm(INSTANCE, name), more }))

  // nothing is known, so what carries our mark is ours; another instance, another folder and no mark at all are not
  const web = await define('web', mark('web'))
  await control.domains.create(web)
  await define('theirs', mark('theirs', { instance: 'other' }))
  await define('there', mark('there', { dir: '/elsewhere' }))
  expect(await look()).toMatchObject({ recovered: ['web'], drift: [], orphans: [], toStart: [] })
  expect((await registry.all()).map((r) => [r.name, r.state, r.desired, r.order.epoch])).toEqual([
    ['web', 'running', 'running', 3],
  ])
  // a second one is a leftover: the registry is not lost any more
  const left = await define('left', mark('left'))
  expect(drift(await look())).toEqual(['left orphan-domain'])
  await control.domains.undefine(left)

  await control.domains.destroy(web)
  await look()
  expect(await registry.get('web')).toMatchObject({ state: 'stopped', desired: 'stopped' })
  await control.domains.undefine(web)
  expect(drift(await look())).toEqual(['web missing-domain'])
  // the domain that has its uuid now is another instance's
  await control.domains.define(testDomain('web', { uuid: web.uuid, more: mark('web', { instance: 'other' }) }))
  const xml = await query.domains.xml(web)
  expect(drift(await look())).toEqual(['web foreign-domain'])
  expect(await query.domains.xml(web)).toBe(xml)

  // many are one look: a few questions for each, all under way at once
  const many = Array.from({ length: 60 }, (_, i) => `m${i}`)
  await registry.change((vms) => {
    for (const name of many) vms.set(name, record(name, { desired: 'stopped', state: 'unknown' }))
  })
  await Promise.all(many.map((name) => define(name, mark(name))))
  const before = JSON.parse(await readFile(registry.path, 'utf8')).revision
  expect(drift(await look())).toEqual(['web foreign-domain'])
  expect(JSON.parse(await readFile(registry.path, 'utf8')).revision).toBe(before + 1)
  await look()
  expect(JSON.parse(await readFile(registry.path, 'utf8')).revision).toBe(before + 1)
})
