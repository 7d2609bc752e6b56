// VM jobs: from a manifest and the configuration to what is asked of the service, and from its answer to the result that clients read.
import { chmod, mkdir, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Config, loadConfig } from '../../src/config/index.ts'
import { type JobContext, JobError } from '../../src/jobs/types.ts'
import { runVmJob } from '../../src/jobs/vm.ts'
import { vmSpec } from '../../src/jobs/vm-spec.ts'
import { parseManifest, type VmManifest } from '../../src/manifest/index.ts'
import { resultSchema } from '../../src/spool/schema.ts'
import { isRoot } from '../support/libvirtd.ts'
import { tempDir } from '../support/temp.ts'
import { type Bed, blankDisk, GONE, order, type Room, vmBed } from './bed.ts'

const MIB = 2 ** 20
const GIB = 2 ** 30

function manifest(m: object): VmManifest {
  const r = parseManifest(Buffer.from(JSON.stringify({ kind: 'vm', name: 'web', action: 'create', ...m })), {
    fileName: 'web.json',
  })
  if (r.state !== 'complete') throw new Error(JSON.stringify(r.diagnostics))
  return r.manifest as VmManifest
}

function context(m: VmManifest, config: Config, o: Partial<JobContext<VmManifest>> = {}): JobContext<VmManifest> {
  return {
    ...{ id: order().job, answer: 'web.vm', epoch: 1, owner: 'o', manifest: m },
    drop: { file: 'web.json', uid: process.getuid!(), gid: process.getgid!(), at: new Date().toISOString() },
    ...{ attemptDir: '/nowhere', answerDir: '/nowhere', earlierAttempts: [] },
    signal: new AbortController().signal,
    progress: () => {},
    log: () => {},
    spawned: () => {},
    config,
    ...o,
  }
}

const run = (m: object, room: Room, o: Partial<JobContext<VmManifest>> = {}) => {
  const read = manifest(m)
  return runVmJob(read, context(read, room.config, { vms: async () => room.vms, ...o }))
}

async function refused(work: Promise<unknown>): Promise<JobError> {
  const e = await work.then(
    (value) => ({ value }),
    (error: unknown) => error,
  )
  expect(e).toBeInstanceOf(JobError)
  return e as JobError
}

describe('what a manifest asks for', () => {
  const { config } = loadConfig({ instance: 'x', root: '/nowhere', env: { HOME: '/nowhere' } })
  const specOf = (m: object, o: Partial<JobContext<VmManifest>> = {}) => {
    const read = manifest(m)
    return vmSpec(read, 'web', context(read, config as Config, o))
  }

  test('has every default', async () => {
    expect(await specOf({ vm: { template: 'debian-12' } })).toEqual({
      name: 'web',
      boot: { from: 'template', template: 'debian-12' },
      copy: 'overlay',
      disks: [],
      vcpus: 2,
      memory_bytes: 4 * GIB,
      firmware: 'bios',
      secure_boot: false,
      machine: 'q35',
      accelerator: 'auto',
      nics: [{ network: 'default', model: 'virtio' }],
      cloud_init: { hostname: 'web' },
      autostart: false,
      start: true,
      address_timeout_ms: 120_000,
      metadata: {},
    })
  })

  test('has what it says', async () => {
    const s = await specOf({
      wait_for_address: '90s',
      vm: {
        image: '/images/a.raw',
        vcpu: 3,
        ram_gb: 1.5,
        disk_gb: 20,
        copy: 'overlay',
        disks: [{ size: '1G', format: 'raw' }, { path: '/images/b.qcow2' }],
        networks: ['lan', { bridge: 'br0', mac: '52:54:00:AA:00:01', model: 'e1000e' }],
        firmware: 'uefi',
        cloud_init: { hostname: 'www', user: 'ops', run: ['true'] },
        metadata: { owner: 'ops' },
      },
    })
    expect(s).toMatchObject({
      boot: {
        from: 'image',
        file: { path: '/images/a.raw', submitter: { uid: process.getuid!() }, import_roots: ['/'] },
      },
      copy: 'overlay',
      disk_bytes: 20 * GIB,
      disks: [
        { size_bytes: GIB, format: 'raw' },
        { file: { path: '/images/b.qcow2' }, format: 'qcow2' },
      ],
      vcpus: 3,
      memory_bytes: 1.5 * GIB,
      firmware: 'uefi',
      nics: [
        { network: 'lan', model: 'virtio' },
        { bridge: 'br0', mac: '52:54:00:aa:00:01', model: 'e1000e' },
      ],
      cloud_init: { hostname: 'www', user: 'ops', run: ['true'] },
      address_timeout_ms: 90_000,
      metadata: { owner: 'ops' },
    })
    expect((await specOf({ vm: { image: '/a', start: false } })).address_timeout_ms).toBe(0)
    expect((await specOf({ vm: { image: '/a' } })).cloud_init).toBeUndefined()
    expect((await specOf({ vm: { image: '/a' } })).copy).toBe('full')
    expect((await specOf({ wait_for_address: false, vm: { image: '/a' } })).address_timeout_ms).toBe(0)
  })

  test('stays within the limits, and is told all that does not, what is allowed, and where that is said', async () => {
    const e = await refused(
      specOf({ vm: { template: 't', vcpus: 33, memory: '512M', disk: '5G', disks: [{ size: '2T' }] } }),
    )
    expect(e).toMatchObject({ code: 'vm-invalid', transient: false })
    expect(e.message).toBe(
      'The VM "web" cannot be created. vcpus is 33; allowed is 1 to 32 (vm.limits.vcpus). ' +
        'memory is 512 MiB; allowed is 1 GiB to 128 GiB (vm.limits.min_memory, vm.limits.memory). ' +
        'disk is 5 GiB; a disk made from a template has at least 10 GiB (vm.limits.min_disk). ' +
        'disks[0].size is 2 TiB; allowed is at most 1000 GiB (vm.limits.disk).',
    )
    // a disk that exists may be small
    expect((await specOf({ vm: { image: '/a', disk: '5G' } })).disk_bytes).toBe(5 * GIB)
  })

  test.skipIf(!isRoot)('reads no file that its submitter may not read', async () => {
    await using dir = await tempDir()
    await chmod(dir.path, 0o755)
    const file = join(dir.path, 'user-data')
    await writeFile(file, '#cloud-config\n{}\n', { mode: 0o600 })
    const m = { vm: { template: 't', cloud_init: { user_data_file: file } } }
    expect((await specOf(m)).cloud_init).toEqual({ hostname: 'web', user_data: '#cloud-config\n{}\n' })
    const drop = { file: 'web.json', uid: 65_534, gid: 65_534, at: new Date().toISOString() }
    const e = await specOf(m, { drop }).catch((x: unknown) => x)
    expect(e).toMatchObject({ code: 'submitter-permission' })
    await writeFile(file, Buffer.alloc(600 * 1024, 0x20))
    expect(await specOf(m).catch((x: unknown) => x)).toMatchObject({
      message: expect.stringContaining('at most 524288'),
    })
  })
})

describe('the job', () => {
  let bed: Bed
  beforeAll(async () => {
    bed = await vmBed()
  })
  afterAll(() => bed?.[Symbol.asyncDispose]())

  const small = { memory: '32M', vcpus: 1, networks: [], accelerator: 'qemu' }

  test('makes a VM from a template of the cache, whose image may go afterwards', async () => {
    await using room = await bed.room({
      config: (c) => {
        c.templates = { tiny: { path: join(c.root, 'tiny.raw'), format: 'raw' } }
      },
    })
    await blankDisk(join(room.temp.path, 'tiny.raw'))
    const phases: string[] = []
    const progress = (p: { phase: string }) => void (phases.at(-1) === p.phase || phases.push(p.phase))
    const done = await run({ vm: { template: 'tiny', disk: '8M', ...small } }, room, { progress })
    expect(phases).toEqual(['admit', 'image', 'disks', 'seed', 'define', 'start'])
    expect(done).toMatchObject({
      summary: 'The VM "web" was created and started.',
      vm: {
        name: 'web',
        state: 'running',
        addresses: [],
        template: 'tiny',
        disks: [{ id: 'disk', size_bytes: 8 * MIB }],
      },
    })
    const result = {
      ...{ schema: 1, id: '01J0000000000000000000000A', name: 'web.vm', kind: 'vm', state: 'succeeded', epoch: 1 },
      ...{ finished_at: new Date().toISOString(), attempt: 1, priority: 5, submitted_at: new Date().toISOString() },
    }
    const parsed = resultSchema.safeParse({ ...result, ...done })
    expect(
      parsed.error?.issues.filter((i) => ['vm', 'phases', 'warnings', 'unchanged'].includes(String(i.path[0]))) ?? [],
    ).toEqual([])
    // of the cache's file the VM has a name of its own
    const [image] = await room.vms.images.list()
    expect(image?.in_use).toBe(1)
    await rm(join(room.temp.path, 'tiny.raw'))
    await run({ action: 'restart', force: true, wait_for_address: false }, room)
    expect(await bed.virsh('domstate', 'web')).toBe('running')
    const gone = await run({ action: 'delete', force: true }, room)
    expect(gone).toMatchObject({ summary: 'The VM "web" was deleted.', vm: { state: 'missing' } })
    expect(await room.traces('web')).toEqual(GONE)
    expect((await run({ action: 'delete', force: true }, room)).unchanged).toBe(true)
  })

  test('names the templates that there are when there is none of that name', async () => {
    await using room = await bed.room({
      config: (c) => {
        c.templates = { tiny: { path: '/nowhere/tiny.raw' } }
      },
    })
    const e = await refused(run({ vm: { template: 'tinny', ...small } }, room))
    expect(e.code).toBe('image-not-found')
    expect(`${e.message} ${e.hint}`).toContain('tiny')
    expect(await room.traces('web')).toEqual(GONE)
  })

  test("makes a VM on a conversion's disks, by names of its own", async () => {
    await using room = await bed.room()
    const answers = join(room.temp.path, 'answers')
    await mkdir(answers)
    for (const f of ['web.qcow2', 'data.qcow2'])
      await execa('qemu-img', ['create', '-q', '-f', 'qcow2', join(answers, f), '4M'])
    const disks = [
      { id: 'data', path: join(answers, 'data.qcow2'), format: 'qcow2', boot: false },
      { id: 'system', path: join(answers, 'web.qcow2'), format: 'qcow2', boot: true },
    ]
    const asked: string[] = []
    const resultOf = async (ref: string) => {
      asked.push(ref)
      return { job: '01J0000000000000000000000B', disks }
    }
    const done = await run({ vm: { from_job: 'web', ...small } }, room, { resultOf })
    expect(asked).toEqual(['web'])
    const vm = await room.vms.registry.get('web')
    expect(vm).toMatchObject({ from_job: '01J0000000000000000000000B', state: 'running' })
    expect(vm?.disks.map((d) => [d.id, d.size_bytes, d.base?.path])).toEqual([
      ['disk', 4 * MIB, join(room.dir, 'web/base.qcow2')],
      ['data', 4 * MIB, join(room.dir, 'web/data.base.qcow2')],
    ])
    const ino = async (path: string) => (await stat(path)).ino
    expect(await ino(join(room.dir, 'web/base.qcow2'))).toBe(await ino(join(answers, 'web.qcow2')))
    await rm(answers, { recursive: true })
    await run({ action: 'restart', force: true, wait_for_address: false }, room)
    expect(await bed.virsh('domstate', 'web')).toBe('running')
    expect((done.vm as { from_job: string }).from_job).toBe('01J0000000000000000000000B')
    await run({ action: 'delete', force: true }, room)

    const none = await refused(run({ vm: { from_job: 'other', ...small } }, room, { resultOf: async () => undefined }))
    expect(none).toMatchObject({ code: 'from-job' })
    expect(none.message).toContain('no finished job "other"')
  })

  test('may only use an image that its submitter may read', async () => {
    if (!isRoot) return
    await using room = await bed.room()
    await chmod(room.temp.path, 0o755)
    const image = await blankDisk(join(room.temp.path, 'secret.raw'))
    await chmod(image, 0o600)
    const drop = { file: 'web.json', uid: 65_534, gid: 65_534, at: new Date().toISOString() }
    for (const vm of [{ image }, { image, copy: 'overlay' }]) {
      const e = await refused(run({ vm: { ...vm, ...small } }, room, { drop }))
      expect(e.code).toBe('submitter-permission')
    }
    expect(await room.traces('web')).toEqual(GONE)
  })

  test('is cancelled, or refused without a service, with its own code', async () => {
    await using room = await bed.room()
    const aborter = new AbortController()
    aborter.abort({ kind: 'cancel', message: 'ops cancelled it.' })
    const e = await refused(run({ action: 'start' }, room, { signal: aborter.signal }))
    expect(e).toMatchObject({ code: 'aborted-cancel', message: 'ops cancelled it.' })
    const m = manifest({ action: 'start' })
    expect(await refused(runVmJob(m, context(m, room.config)))).toMatchObject({ code: 'vm-unavailable' })
    expect(await refused(run({ action: 'start' }, room))).toMatchObject({ code: 'vm-not-found', transient: false })
  })
})
