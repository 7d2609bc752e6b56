// A conversion defines its VM, on a real libvirtd: what it makes, what it refuses, what a second attempt finds, and what a failure leaves.
import { existsSync } from 'node:fs'
import { appendFile, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { execa } from 'execa'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { mergeDomain, readOwnership, uuidOfVm } from '../../src/domain/index.ts'
import { type JobContext, JobError, type JobOutcome } from '../../src/jobs/types.ts'
import type { ConvertManifest } from '../../src/manifest/index.ts'
import type { DefineSpec } from '../../src/vm/index.ts'
import type { VmOrder } from '../../src/vm/types.ts'
import { bench, disk } from '../convert/harness.ts'
import { vmspool } from '../support/agent.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'
import { type Bed, blankDisk, failure, GONE, hear, order, type Room, spec, vmBed } from './bed.ts'

const MIB = 2 ** 20
const uid = process.getuid!()
let bed: Bed
beforeAll(async () => {
  bed = await vmBed()
  await bed.libvirtd.natNetwork('lan')
})
afterAll(() => bed?.[Symbol.asyncDispose]())

/** What a conversion would hand over: finished disks in a folder of their own. */
async function finished(
  room: Room,
  name: string,
  o: Partial<DefineSpec> & { format?: 'raw' | 'qcow2'; network?: string; mac?: string; folder?: string } = {},
): Promise<DefineSpec> {
  const { format = 'raw', network = 'lan', mac, folder = join(room.temp.path, 'made'), ...more } = o
  await mkdir(folder, { recursive: true })
  const disks = []
  for (const [i, id] of ['disk-0', 'disk-1'].entries()) {
    const path = join(folder, `${id}.${format}`)
    await execa('qemu-img', ['create', '-q', '-f', format, path, `${2 + i}M`])
    disks.push({ id, path, format, size_bytes: (2 + i) * MIB, boot: i === 0 })
  }
  const words = {
    write_xml: true,
    job_id: 'job',
    output_dir: folder,
    name,
    vcpus: 1,
    memory_bytes: 64 * MIB,
    os_hint: 'linux',
    nics: [{ ...(mac === undefined ? {} : { mac }), network: 'net' }],
    source: {},
    networks: { by_name: { net: network }, otherwise: 'lan' },
  }
  const { domain } = mergeDomain(
    name,
    words,
    undefined,
    disks.map((d, i) => ({ ...d, boot_order_hint: i })),
    {},
  )
  return { name, domain, disks, accelerator: 'qemu', autostart: false, start: false, copy: false, ...more }
}

const inode = async (path: string) => (await stat(path)).ino
const xmlOf = (name: string) => bed.virsh('dumpxml', '--inactive', name)
const madeBy = async (name: string) => {
  const { job, epoch } = readOwnership(await xmlOf(name))!
  return { job, epoch }
}
const remove = (room: Room, name: string) =>
  room.vms.remove(order(), name, { keep_disks: false, force: true, grace_ms: 0 }, hear())

describe('the VM', () => {
  test('has all disks as hard links, its cards and its maker; another job updates it and leaves the earlier disks beside', async () => {
    await using room = await bed.room()
    const first = order()
    const spec1 = await finished(room, 'up', { autostart: true })
    const h = hear()
    const made = await room.vms.define(first, spec1, h)
    expect(h.phases).toEqual(['admit', 'disks', 'define'])
    expect(made).toMatchObject({ defined: true, started: false, kept: [] })
    expect(made.vm).toMatchObject({
      origin: 'convert',
      desired: 'stopped',
      state: 'stopped',
      autostart: true,
      from_job: first.job,
      accelerator: 'qemu',
    })
    expect(made.vm.doing).toBeUndefined()
    const folder = join(room.dir, 'up', `${first.job}-e1`)
    expect(made.disks.map((d) => [d.path, d.how])).toEqual([
      [join(folder, 'disk-0.raw'), 'link'],
      [join(folder, 'disk-1.raw'), 'link'],
    ])
    for (const [i, d] of made.disks.entries()) expect(await inode(d.path)).toBe(await inode(spec1.disks[i]!.path))
    expect(await madeBy('up')).toEqual(first)
    const xml = await xmlOf('up')
    expect(xml).toContain(`<uuid>${made.vm.uuid}</uuid>`)
    for (const d of made.disks) expect(xml).toContain(d.path)
    const mac = /<mac address='(.*?)'/.exec(xml)?.[1]
    expect(made.vm.nics).toEqual([{ mac, network: 'lan', model: 'virtio' }])
    // libvirt's own autostart stays off: the agent starts it
    expect(await bed.virsh('dominfo', 'up')).toMatch(/Autostart: +disable/)

    const second = order()
    const again = await room.vms.define(
      second,
      await finished(room, 'up', { folder: join(room.temp.path, 'two') }),
      hear(),
    )
    expect(again).toMatchObject({ defined: true, kept: made.disks.map((d) => d.path) })
    expect(again.vm).toMatchObject({ uuid: made.vm.uuid, from_job: second.job, created_at: made.vm.created_at })
    expect(again.vm.nics).toEqual(made.vm.nics) // its address on the network stays
    expect(await madeBy('up')).toEqual(second)
    for (const d of made.disks) expect(await inode(d.path)).toBeGreaterThan(0)
    expect(await bed.virsh('list', '--all', '--name')).toContain('up')
    await remove(room, 'up')
    expect(await room.traces('up')).toEqual(GONE)
  })

  test('gets disks of its own when asked, or where no link can be', async () => {
    await using room = await bed.room()
    const own = await finished(room, 'own', { copy: true })
    const made = await room.vms.define(order(), own, hear())
    for (const [i, d] of made.disks.entries()) {
      expect(d.how).toMatch(/^(clone|copy)$/)
      expect(await inode(d.path)).not.toBe(await inode(own.disks[i]!.path))
      await execa('cmp', [d.path, own.disks[i]!.path])
    }
    expect(made.warnings).toEqual([])
    await remove(room, 'own')

    await using shm = await tempDir('/dev/shm')
    const far = await finished(room, 'far', { folder: join(shm.path, 'made') })
    const copied = await room.vms.define(order(), far, hear())
    expect(copied.disks.map((d) => d.how)).toEqual(['copy', 'copy'])
    expect(copied.warnings.join()).toContain('cannot hold a hard link')
    await remove(room, 'far')
  })

  test('has a snapshot of before its first start in the disks that can hold one', async () => {
    await using room = await bed.room()
    const made = await room.vms.define(
      order(),
      await finished(room, 'snap', { format: 'qcow2', snapshot: 'first' }),
      hear(),
    )
    for (const d of made.disks) {
      const { stdout } = await execa('qemu-img', ['snapshot', '-l', d.path])
      expect(stdout).toContain('first')
    }
    await remove(room, 'snap')
    const raw = await room.vms.define(order(), await finished(room, 'snap', { snapshot: 'first' }), hear())
    expect(raw.warnings.join()).toContain('can hold none')
    await remove(room, 'snap')
  })
})

describe('nothing is taken away', () => {
  test('a domain of that name, or of that uuid, that is not ours', async () => {
    await using room = await bed.room()
    const foreign = async (name: string, uuid: string) => {
      const file = join(room.temp.path, 'foreign.xml')
      await writeFile(
        file,
        `<domain type='qemu'><name>${name}</name><uuid>${uuid}</uuid><memory unit='MiB'>32</memory><os><type>hvm</type></os></domain>`,
      )
      await bed.virsh('define', file)
    }
    for (const [name, uuid] of [
      ['theirs', '00000000-0000-4000-8000-000000000001'],
      ['other', uuidOfVm(room.instance, 'theirs')],
    ] as const) {
      await foreign(name, uuid)
      const before = await xmlOf(name)
      const e = await failure(room.vms.define(order(), await finished(room, 'theirs'), hear()))
      expect(e).toMatchObject({ code: 'vm-conflict', transient: false })
      expect(e.message).toContain('was not touched')
      expect(e.hint).toContain('another name')
      expect(await xmlOf(name)).toBe(before)
      expect(await room.traces('theirs')).toMatchObject({ files: [], entry: false })
      await bed.virsh('undefine', name)
    }
  })

  test('a VM that was not made by a conversion, unless it is said; one that was, if it is said', async () => {
    await using room = await bed.room()
    const image = await blankDisk(join(room.temp.path, 'blank.raw'))
    await room.vms.create(order(), spec('made', { image, start: false }), hear())
    const disks = await readdir(join(room.dir, 'made'))
    const e = await failure(room.vms.define(order(), await finished(room, 'made'), hear()))
    expect(e).toMatchObject({ code: 'vm-conflict' })
    expect(e.hint).toContain('"overwrite_domain": true')
    const over = await room.vms.define(order(), await finished(room, 'made', { overwrite: true }), hear())
    expect(over.kept).toEqual([join(room.dir, 'made/disk.qcow2')])
    expect(await readdir(join(room.dir, 'made'))).toEqual(expect.arrayContaining(disks))
    const no = await failure(room.vms.define(order(), await finished(room, 'made', { overwrite: false }), hear()))
    expect(no.message).toContain('overwrite_domain is false')
    await remove(room, 'made')
  })

  test('a VM that runs; but the next attempt of its own job takes it as it is, and an earlier one comes too late', async () => {
    await using room = await bed.room()
    const job = order()
    const made = await room.vms.define(job, await finished(room, 'runs', { start: true }), hear())
    expect(made).toMatchObject({ started: true })
    const id = await bed.virsh('domid', 'runs')

    const other = await finished(room, 'runs', { folder: join(room.temp.path, 'two') })
    const h = hear()
    const e = await failure(room.vms.define(order(), other, h))
    expect(e).toMatchObject({ code: 'vm-running' })
    expect(h.phases).toEqual(['admit']) // before anything was changed
    expect(e.hint).toContain('vmspool vm stop runs')

    const next: VmOrder = { ...job, epoch: 2 }
    const again = await room.vms.define(next, { ...other, start: true }, hear())
    expect(again).toMatchObject({ defined: false, started: false })
    expect(again.disks).toEqual(made.disks.map((d) => ({ ...d, how: 'there' })))
    expect(await madeBy('runs')).toEqual(next)
    expect(await bed.virsh('domid', 'runs')).toBe(id)
    expect(await readdir(join(room.dir, 'runs'))).not.toContain(`${job.job}-e2`)

    const late = await failure(room.vms.define(job, { ...other, start: true }, hear()))
    expect(late).toMatchObject({ code: 'vm-superseded' })
    expect(await madeBy('runs')).toEqual(next)
    expect(await bed.virsh('domid', 'runs')).toBe(id)
    await remove(room, 'runs')
  })

  test('when it fails: nothing of the new VM, everything of the earlier one', async () => {
    await using room = await bed.room()
    const broken = { start: true, network: 'bridge:nowhere0', mac: '52:54:00:00:00:01' }
    const e = await failure(room.vms.define(order(), await finished(room, 'bad', broken), hear()))
    expect(e.message).toContain('nowhere0')
    expect(e.message).toContain('No VM "bad" is left.')
    expect(await room.traces('bad')).toEqual(GONE)
    expect(await readdir(room.dir)).not.toContain('bad')

    const first = order()
    const good = await room.vms.define(first, await finished(room, 'bad', { format: 'qcow2' }), hear())
    const before = { xml: await xmlOf('bad'), files: (await readdir(join(room.dir, 'bad'))).sort() }
    const again = await failure(room.vms.define(order(), await finished(room, 'bad', broken), hear()))
    expect(again.message).toContain(`is again as it was before (of job ${first.job})`)
    // libvirt puts its controllers into another order each time
    const lines = (xml: string) => xml.split('\n').sort()
    expect(lines(await xmlOf('bad'))).toEqual(lines(before.xml))
    expect((await readdir(join(room.dir, 'bad'))).sort()).toEqual(before.files)
    expect(await room.vms.registry.get('bad')).toMatchObject({ order: first, disks: good.vm.disks, desired: 'stopped' })
    await remove(room, 'bad')
  })

  test('a network that is not there is told before anything is made; without a start it is only a warning', async () => {
    await using room = await bed.room()
    const gone = { network: 'gone' }
    const e = await failure(room.vms.define(order(), await finished(room, 'net', { ...gone, start: true }), hear()))
    expect(e).toMatchObject({ code: 'network-not-found' })
    expect(await room.traces('net')).toEqual(GONE)
    const made = await room.vms.define(order(), await finished(room, 'net', gone), hear())
    expect(made.warnings.join()).toContain('cannot be started until it is there')
    await remove(room, 'net')
  })
})

describe('as the last step of a conversion', () => {
  const source = async (room: Room) => blankDisk(join(room.temp.path, `source-${Date.now()}.raw`))
  const context = (room: Room, more: Partial<JobContext<ConvertManifest>> = {}) => ({
    answer: 'vm',
    config: room.config,
    vms: async () => room.vms,
    drop: { file: 'job.json', uid, gid: uid, at: new Date().toISOString() },
    ...more,
  })
  const wanted = (path: string, libvirt_integration: object) => ({
    disks: [disk(path, 'raw')],
    vm: { cpu: 1, mem_gb: 1 },
    nics: [],
    libvirt_integration: { enabled: true, ...libvirt_integration },
  })

  test('killed after the VM was started: the next attempt finds the VM running and copies nothing again', async () => {
    await using room = await bed.room()
    await using dir = await tempDir()
    const manifest = wanted(await source(room), { auto_start: true })
    const one = bench({ dir: dir.path, epoch: 1 })
    const first = await one.run(manifest, context(room))
    expect(first.summary).toContain('The VM "vm" was defined and started.')
    const id = await bed.virsh('domid', 'vm')
    // as its guest does: the image is no longer what was copied, and QEMU's lock keeps qemu-img check away
    const image = join(one.answerDir, 'vm.qcow2')
    await appendFile(image, Buffer.alloc(65_536, 1))
    const ino = await inode(image)
    // and what the killed one was just writing
    const [disk] = (first.define as { disks: { path: string }[] }).disks
    const half = join(dirname(disk!.path), '.direct.0123456789ab.tmp')
    await writeFile(half, '')

    const two = bench({ dir: dir.path, epoch: 2 })
    const earlierAttempts = [{ dir: one.attemptDir, epoch: 1, owner: 'dead', dead: true }]
    const second = await two.run(manifest, context(room, { earlierAttempts }))
    expect(second.define).toMatchObject({ defined: false, running: true })
    expect(existsSync(half)).toBe(false)
    expect(await inode(join(two.answerDir, 'vm.qcow2'))).toBe(ino)
    expect(two.answers()).toEqual(['vm.qcow2', 'vm.report.json', 'vm.xml'])
    expect(second.disks).toMatchObject([{ adopted: true }])
    expect(await bed.virsh('domid', 'vm')).toBe(id)
    expect(await madeBy('vm')).toEqual({ job: '01HTEST', epoch: 2 })
    expect(await readFile(join(two.answerDir, 'vm.xml'), 'utf8')).toContain('epoch="2"')
    expect(two.report().pipeline.stages.libvirt_integration).toMatchObject({ success: true })
    expect(two.report().define.phases.map((p: { name: string }) => p.name)).toEqual([
      'admit',
      'disks',
      'define',
      'start',
    ])

    // a stalled one comes too late; and disks that a guest has written to are of no use to a job that repeats this one
    await using elsewhere = await tempDir()
    const late = bench({ dir: elsewhere.path, epoch: 1 })
    const e = await late
      .run(manifest, context(room, { earlierAttempts: [{ dir: two.attemptDir, epoch: 2, owner: 'dead', dead: true }] }))
      .catch((error: unknown) => error as JobError)
    expect(e).toMatchObject({ code: 'vm-superseded', kept: undefined })
    expect(late.answers()).toEqual(['vm.report.json'])
    expect(await bed.virsh('domid', 'vm')).toBe(id)
    await remove(room, 'vm')
  })

  test('refused: the copies are kept, the message says how to go on, and the next attempt begins there', async () => {
    await using room = await bed.room()
    await using dir = await tempDir()
    const image = await blankDisk(join(room.temp.path, 'blank.raw'))
    await room.vms.create(order(), spec('vm', { image, start: false }), hear())
    const manifest = wanted(await source(room), {})
    const one = bench({ dir: dir.path, epoch: 1 })
    const e = await one.run(manifest, context(room)).then(
      () => undefined,
      (error: unknown) => error as JobError,
    )
    expect(e).toBeInstanceOf(JobError)
    expect(e).toMatchObject({ code: 'vm-conflict', transient: false, phase: 'define', kept: { steps: ['copy'] } })
    expect(e?.message).toContain('The disks are converted, but the VM was not defined.')
    expect(one.answers()).toEqual(['vm.report.json'])
    const report = one.report()
    expect(report.pipeline.stages.libvirt_integration).toMatchObject({ success: false })
    expect(report.errors).toMatchObject([{ stage: 'define' }])
    expect(report.artifacts).toEqual([])

    await remove(room, 'vm')
    const two = bench({ dir: dir.path, epoch: 2 })
    const earlierAttempts = [{ dir: one.attemptDir, epoch: 1, owner: 'dead', dead: true }]
    const outcome = await two.run(manifest, context(room, { earlierAttempts }))
    expect(outcome.define).toMatchObject({ defined: true, started: false })
    expect(two.logs.join()).toContain('took over the finished disks of an earlier attempt')
    expect(two.answers()).toEqual(['vm.qcow2', 'vm.report.json', 'vm.xml'])
    await remove(room, 'vm')
  })

  test('libvirt away: the step waits, says for what, and goes on; a job that is aborted then keeps its copies', async () => {
    await using room = await bed.room()
    await using dir = await tempDir()
    await bed.libvirtd.signal('KILL')
    const one = bench({ dir: dir.path, epoch: 1 })
    const manifest = wanted(await source(room), {})
    const waits = (b: typeof one) => b.progress.some((p) => p.phase === 'define' && p.message?.startsWith('waits for'))
    const given = one.run(manifest, context(room)).catch((error: unknown) => error as JobError)
    await until('the step waits', () => waits(one))
    one.abort.abort({ kind: 'drain', message: 'The agent stops.' })
    expect(await given).toMatchObject({ code: 'aborted-drain', kept: { steps: ['copy'] } })
    expect(one.answers()).toEqual([])

    const two = bench({ dir: dir.path, epoch: 2 })
    const earlierAttempts = [{ dir: one.attemptDir, epoch: 1, owner: 'dead', dead: true }]
    const going = two.run(manifest, context(room, { earlierAttempts }))
    await until('the step waits', () => waits(two))
    await bed.libvirtd.start()
    expect((await going).define).toMatchObject({ defined: true })
    expect(two.logs.join()).toContain('took over the finished disks')
    expect(two.progress.filter((p) => p.phase === 'copy')).toEqual([])
    await remove(room, 'vm')
  })

  test('what is asked for and not done is said once; the configuration may ask for the VM too', async () => {
    await using room = await bed.room({ config: (c) => Object.assign(c.libvirt, { enabled: true, autostart: true }) })
    const path = await source(room)
    const run = async (libvirt_integration: object | undefined, more: Partial<JobContext<ConvertManifest>> = {}) => {
      const b = bench()
      try {
        const { libvirt_integration: _, ...plain } = wanted(path, {})
        const o: JobOutcome = await b.run(
          { ...plain, ...(libvirt_integration ? { libvirt_integration } : {}) },
          context(room, more),
        )
        return {
          define: o.define,
          said: (o.warnings ?? []).map((w) => w.message).filter((w) => !w.includes('checksum')),
        }
      } finally {
        b.close()
      }
    }
    const asked = await run({
      enabled: true,
      import_to_pool: true,
      pool_path: '/pool',
      overwrite_volumes: true,
      vm_name: 'named',
    })
    expect(asked.said).toHaveLength(1)
    expect(asked.said[0]).toContain('import_to_pool is not done')
    expect(asked.define).toMatchObject({ name: 'named', autostart: true })
    await remove(room, 'named')
    expect((await run(undefined)).define).toMatchObject({ name: 'vm', started: false })
    expect((await run({ enabled: false })).define).toBeUndefined()
    expect((await run({ define_domain: false })).define).toBeUndefined()
    const { vms: _, ...none } = context(room)
    const without = await run(undefined, { ...none, vms: undefined as never })
    expect(without.define).toBeUndefined()
    expect(without.said.join()).toContain('this process has no VM service')
    await remove(room, 'vm')
  })

  test('vmspool convert defines it without an agent when asked; when that is refused the disks are there all the same', async () => {
    await using temp = await tempDir()
    const source = await blankDisk(join(temp.path, 'web.raw'))
    const config = { libvirt: { uri: bed.uri }, vm: { accelerator: 'qemu' } }
    await writeFile(join(temp.path, 'agent.yaml'), JSON.stringify(config))
    const manifest = (name: string, libvirt_integration: object) => ({
      manifest_version: '1.0',
      name,
      nics: [],
      disks: [{ id: 'disk-0', source_format: 'raw', bytes: 4 * MIB, local_path: source }],
      libvirt_integration,
    })
    const convert = async (name: string, libvirt_integration: object, out: string) => {
      const file = join(temp.path, `${name}.json`)
      await writeFile(file, JSON.stringify(manifest(name, libvirt_integration)))
      const place = ['--root', temp.path, '--instance', 'here', '--config', join(temp.path, 'agent.yaml')]
      const env = { VMSPOOL_RUNTIME_DIR: join(temp.path, 'run') }
      return execa(vmspool, ['convert', file, '-o', join(temp.path, out), '--quiet', ...place], { env, reject: false })
    }
    const nowhere = await convert('web', { enabled: true }, 'one')
    expect(nowhere).toMatchObject({ exitCode: 1, stdout: expect.stringContaining('one/web.qcow2') })
    expect(nowhere.stderr).toContain('there is no folder')
    expect(nowhere.stderr).toContain('vmspool submit')

    await mkdir(join(temp.path, 'here/output'), { recursive: true })
    const made = await convert('web', { enabled: true }, 'two')
    expect(made, made.stderr).toMatchObject({ exitCode: 0 })
    expect(made.stderr).toContain('The VM "web" was defined.')
    const [disk] = (await xmlOf('web')).match(/[^']*direct-\w+-e1\/disk-0\.qcow2/)!
    expect(await inode(disk)).toBe(await inode(join(temp.path, 'two/web.qcow2')))
    expect(await readFile(join(temp.path, 'two/web.xml'), 'utf8')).toContain(disk)

    const refused = await convert('web', { enabled: true, overwrite_domain: false }, 'three')
    expect(refused).toMatchObject({ exitCode: 1, stdout: expect.stringContaining('three/web.qcow2') })
    expect(refused.stderr).toContain('overwrite_domain is false')
    expect(await xmlOf('web')).toContain(disk)
    await bed.virsh('undefine', 'web')
    expect(await readdir(join(temp.path, 'run')).catch(() => [])).toEqual([])
  })
})
