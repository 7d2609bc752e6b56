// Whatever goes wrong in the middle of a create: nothing is left, and the error says so. Whoever only goes on later leaves everything.
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { VmSpec } from '../../src/vm/index.ts'
import { isRoot } from '../support/libvirtd.ts'
import { until } from '../support/wait.ts'
import { type Bed, blankDisk, failure, GONE, hear, order, type Room, spec, vmBed } from './bed.ts'

let bed: Bed
let net: { name: string }
beforeAll(async () => {
  bed = await vmBed()
  net = await bed.libvirtd.natNetwork('lan')
})
afterAll(() => bed?.[Symbol.asyncDispose]())

const foreign = (name: string) =>
  `<domain type='qemu'><name>${name}</name><memory unit='MiB'>32</memory><os><type arch='x86_64' machine='q35'>hvm</type></os></domain>`

async function defineForeign(room: Room, name: string): Promise<void> {
  const file = join(room.temp.path, `${name}.xml`)
  await writeFile(file, foreign(name))
  await bed.virsh('define', file)
}

const destroy = (room: Room, name: string) =>
  room.vms.remove(order(), name, { keep_disks: false, force: true, grace_ms: 0 }, hear())

describe('a create that fails leaves nothing', () => {
  const cases: {
    what: string
    code: string
    says: RegExp
    /** changes what is asked for */
    ask?: (image: string, room: Room) => Promise<Partial<VmSpec>>
    before?: (phase: string, room: Room, name: string) => Promise<void>
    /** it is refused before anything is begun */
    early?: true
    /** a domain that is not ours has the name in the end */
    foreign?: boolean
  }[] = [
    {
      what: 'a network that is not there',
      code: 'network-not-found',
      says: /no network "nowhere"/,
      ask: async () => ({ nics: [{ network: 'nowhere', model: 'virtio' }] }),
    },
    {
      what: 'a bridge that is not there, which libvirt tells at the start',
      code: 'guest-start',
      says: /refused to start.*Nothing is left of the VM: the domain, the seed and the disks were removed\.$/s,
      ask: async () => ({ nics: [{ bridge: 'no-such-bridge', model: 'virtio' }], cloud_init: { hostname: 'x' } }),
    },
    {
      what: 'an image that is none',
      code: 'image-invalid',
      says: /Nothing had been made\.$/,
      ask: async (image) => {
        await writeFile(image, Buffer.from('QFI\xfb\0\0\0\x03garbage', 'latin1'))
        return { boot: { from: 'image', file: { path: image, format: 'qcow2', import_roots: ['/'] } } }
      },
    },
    {
      what: 'an image that is broken further on',
      code: 'image-invalid',
      says: /Nothing (had been made|is left)/,
      ask: async (image) => {
        await rm(image)
        await execa('qemu-img', ['create', '-q', '-f', 'qcow2', image, '4M'])
        await execa('qemu-io', ['-f', 'qcow2', '-c', 'write 0 1M', image])
        // the table of the first cluster leads out of the file
        const { stdout } = await execa('qemu-img', ['map', '--output=json', '-f', 'qcow2', image])
        expect(JSON.parse(stdout)[0].offset).toBeGreaterThan(0)
        await execa('sh', [
          '-c',
          `printf '\\200\\000\\377\\377\\377\\377\\000\\000' | dd of=${image} bs=1 seek=262144 conv=notrunc`,
        ])
        return { boot: { from: 'image', file: { path: image, format: 'qcow2', import_roots: ['/'] } } }
      },
    },
    {
      what: 'an image that is gone when it is to be copied',
      code: 'image-not-found',
      says: /Nothing is left|Nothing had been made/,
      before: async (phase, room) => {
        if (phase === 'disks') await rm(join(room.temp.path, 'blank.raw'))
      },
    },
    {
      what: 'a disk that is too small for its image',
      code: 'vm-invalid',
      says: /cut off its end/,
      ask: async () => ({ disk_bytes: 2 ** 20 }),
    },
    {
      what: 'a file where its folder is to be',
      code: 'vm-conflict',
      says: /is in the way/,
      ask: async (_image, room) => {
        await writeFile(join(room.dir, 'fails-6'), '')
        return {}
      },
      early: true,
    },
    {
      what: 'more memory than the host has',
      code: 'vm-resources',
      says: /memory/,
      ask: async () => ({ memory_bytes: 2 ** 50 }),
    },
    {
      what: 'a seed that cannot be made',
      code: 'vm-invalid',
      says: /Nothing is left of the VM: the disks were removed\.$/,
      ask: async () => ({ cloud_init: { hostname: 'x', user_data: 'neither a script nor a cloud-config' } }),
    },
    {
      what: 'a domain of that name that somebody else defines meanwhile',
      code: 'vm-conflict',
      says: /it was not touched/,
      before: async (phase, room, name) => {
        if (phase === 'define') await defineForeign(room, name)
      },
      foreign: true,
    },
    {
      what: 'a guest that libvirt ends before it runs',
      code: 'guest-start',
      says: /Nothing is left of the VM/,
      before: async (phase, room, name) => {
        // QEMU cannot open its disk
        if (phase === 'start') await rm(join(room.dir, name, 'disk.qcow2'))
      },
    },
  ]

  for (const [i, c] of cases.entries()) {
    test(c.what, async () => {
      await using room = await bed.room()
      const name = `fails-${i}`
      const image = await blankDisk(join(room.temp.path, 'blank.raw'))
      const words = { image, ...(await c.ask?.(image, room)) }
      const wanted = { ...spec(name, words), ...words }
      const h = hear({ before: async (phase) => c.before?.(phase, room, name) })
      const e = await failure(room.vms.create(order(), wanted, h))
      expect(e.message).toMatch(c.says)
      expect(e.code).toBe(c.code)
      expect(h.said.includes('rolls back')).toBe(c.early !== true)
      expect(await room.traces(name)).toEqual({ ...GONE, domain: c.foreign === true })
      if (c.foreign) await bed.virsh('undefine', name)
    })
  }

  test.skipIf(!isRoot)('a filesystem that fills up in the middle', async () => {
    await using room = await bed.room()
    const image = join(room.temp.path, 'noise.raw')
    await execa('dd', ['if=/dev/urandom', `of=${image}`, 'bs=1M', 'count=8', 'status=none'])
    await mkdir(room.dir, { recursive: true })
    await execa('mount', ['-t', 'tmpfs', '-o', 'size=24M', 'tmpfs', room.dir])
    try {
      await using small = await bed.room({ of: room })
      const fill = async (phase: string) => {
        if (phase !== 'disks') return
        await execa('dd', ['if=/dev/zero', `of=${room.dir}/filler`, 'bs=1M'], { reject: false })
        // the registry is a few kilobytes
        await execa('truncate', ['-s', '-256K', `${room.dir}/filler`])
      }
      const e = await failure(small.vms.create(order(), spec('full', { image }), hear({ before: fill })))
      expect(e).toMatchObject({ code: 'storage', transient: true })
      expect(e.message).toMatch(/Nothing/)
      await rm(join(room.dir, 'filler'))
      expect(await small.traces('full')).toEqual(GONE)
      // with room again the same is made
      // (the daemon, in namespaces of its own, does not see the mount)
      const made = await small.vms.create(order(), spec('full', { image, start: false }), hear())
      expect(made.vm?.state).toBe('stopped')
      await destroy(small, 'full')
    } finally {
      await execa('umount', ['-l', room.dir])
    }
  })

  test('a cancel in the middle takes everything back', async () => {
    await using room = await bed.room()
    const image = await blankDisk(join(room.temp.path, 'blank.raw'))
    for (const at of ['disks', 'define', 'start', 'address']) {
      const aborter = new AbortController()
      const h = hear({
        signal: aborter.signal,
        onPhase: (phase) => {
          if (phase === at) aborter.abort({ kind: 'cancel', message: 'ops cancelled the job.' })
        },
      })
      const words = { image, nics: [{ network: net.name, model: 'virtio' as const }], address_timeout_ms: 60_000 }
      const reason = await room.vms.create(order(), spec('cancelled', words), h).catch((e: unknown) => e)
      expect(reason, at).toMatchObject({ kind: 'cancel' })
      expect(h.phases, at).toContain('roll-back')
      expect(await room.traces('cancelled'), at).toEqual(GONE)
    }
  })
})

describe('what goes on later is left as it is', () => {
  test('a drain at any phase, and the next attempt makes one VM of it', async () => {
    await using room = await bed.room()
    const image = await blankDisk(join(room.temp.path, 'blank.raw'))
    const words = {
      image,
      nics: [{ network: net.name, model: 'virtio' as const }],
      cloud_init: { hostname: 'drained' },
      address_timeout_ms: 60_000,
    }
    for (const at of ['disks', 'seed', 'define', 'start', 'address']) {
      const { job } = order()
      const aborter = new AbortController()
      const h = hear({
        signal: aborter.signal,
        onPhase: (phase) => {
          if (phase === at) aborter.abort({ kind: 'drain', message: 'The agent is draining.' })
        },
      })
      const reason = await room.vms.create({ job, epoch: 1 }, spec('drained', words), h).catch((e: unknown) => e)
      expect(reason, at).toMatchObject({ kind: 'drain' })
      expect(h.phases, at).not.toContain('roll-back')
      expect(await room.vms.registry.get('drained'), at).toMatchObject({ doing: { action: 'create', job, epoch: 1 } })
      const id = at === 'address' ? await bed.virsh('domid', 'drained') : undefined
      const made = await room.vms.create(
        { job, epoch: 2 },
        spec('drained', { ...words, address_timeout_ms: 1 }),
        hear(),
      )
      expect(made.summary, at).toBe('The VM "drained" was created and started.')
      expect(made.vm, at).toMatchObject({ state: 'running', order: { job, epoch: 2 } })
      // it was not started twice
      if (id !== undefined) expect(await bed.virsh('domid', 'drained')).toBe(id)
      // the first attempt comes back from the dead
      const late = await failure(room.vms.create({ job, epoch: 1 }, spec('drained', words), hear()))
      expect(late.code, at).toBe('vm-superseded')
      expect(await bed.virsh('domstate', 'drained'), at).toBe('running')
      await destroy(room, 'drained')
      expect(await room.traces('drained'), at).toEqual(GONE)
    }
  })

  test('what the VM is made of may go once its disks are made; what it is to be must still be known', async () => {
    await using room = await bed.room()
    const image = await blankDisk(join(room.temp.path, 'blank.raw'))
    const { job } = order()
    const drained = async (epoch: number) => {
      const aborter = new AbortController()
      const onPhase = (phase: string) => phase === 'start' && aborter.abort({ kind: 'drain', message: 'Away.' })
      await room.vms
        .create({ job, epoch }, spec('half', { image }), hear({ signal: aborter.signal, onPhase }))
        .catch(() => {})
      expect(await room.vms.registry.get('half')).toMatchObject({ doing: { action: 'create', epoch } })
    }
    await drained(1)
    await rm(image)
    const make = async () => spec('half', { image })
    expect((await room.vms.create({ job, epoch: 2 }, { name: 'half', make }, hear())).vm?.state).toBe('running')
    await destroy(room, 'half')

    await blankDisk(image)
    await drained(3)
    const gone = new Error('The job that it came from is gone.')
    const late = { name: 'half', make: () => Promise.reject(gone) }
    const e = await room.vms.create({ job, epoch: 4 }, late, hear()).catch((x: unknown) => x)
    expect((e as Error).message).toMatch(/^The job that it came from is gone\. Nothing is left of the VM: the domain/)
    expect(await room.traces('half')).toEqual(GONE)
    // of whoever has made nothing there is nothing to take back
    const again = await room.vms
      .create(order(), { name: 'half', make: () => Promise.reject(new Error('No.')) }, hear())
      .catch((x: unknown) => x)
    expect((again as Error).message).toBe('No.')
  })

  test('an attempt that stood still touches nothing once a later one has taken over', async () => {
    for (const at of ['disks', 'define', 'start']) {
      await using room = await bed.room()
      await using other = await bed.room({ of: room })
      const image = await blankDisk(join(room.temp.path, 'blank.raw'))
      const { job } = order()
      let id = ''
      const stood = hear({
        async before(phase) {
          if (phase !== at) return
          await other.vms.create({ job, epoch: 2 }, spec('fenced', { image }), hear())
          id = await bed.virsh('domid', 'fenced')
        },
      })
      const e = await failure(room.vms.create({ job, epoch: 1 }, spec('fenced', { image }), stood))
      expect(e.code, at).toBe('vm-superseded')
      expect(stood.phases, at).not.toContain('roll-back')
      expect(await bed.virsh('domid', 'fenced'), at).toBe(id)
      expect(await room.vms.registry.get('fenced'), at).toMatchObject({ order: { job, epoch: 2 }, state: 'running' })
      await destroy(room, 'fenced')
    }
  })

  test('a stop that stood still does not stop what another job has started since', async () => {
    await using room = await bed.room()
    await using other = await bed.room({ of: room })
    const image = await blankDisk(join(room.temp.path, 'blank.raw'))
    await room.vms.create(order(), spec('restarted', { image }), hear())
    const { job } = order()
    const how = { force: true, grace_ms: 0 }
    let id = ''
    const stood = hear({
      async before() {
        await other.vms.stop({ job, epoch: 2 }, 'restarted', how, hear())
        await other.vms.start(order(), 'restarted', { address_timeout_ms: 0 }, hear())
        id = await bed.virsh('domid', 'restarted')
      },
    })
    const e = await failure(room.vms.stop({ job, epoch: 1 }, 'restarted', how, stood))
    expect(e.code).toBe('vm-superseded')
    expect(await bed.virsh('domid', 'restarted')).toBe(id)
    expect(await room.vms.registry.get('restarted')).toMatchObject({ desired: 'running', state: 'running' })
    await destroy(room, 'restarted')
  })

  test('a create that was given up half-way is cleared away by the next job', async () => {
    await using room = await bed.room()
    const image = await blankDisk(join(room.temp.path, 'blank.raw'))
    const aborter = new AbortController()
    const h = hear({
      signal: aborter.signal,
      onPhase: (phase) => phase === 'start' && aborter.abort({ kind: 'drain', message: 'Away.' }),
    })
    await room.vms.create(order(), spec('given-up', { image, vcpus: 1 }), h).catch(() => {})
    const next = hear()
    const made = await room.vms.create(order(), spec('given-up', { image, vcpus: 2 }), next)
    expect(next.said).toMatch(/removed the domain and the disks, left by job/)
    expect(made.vm).toMatchObject({ vcpus: 2, state: 'running' })
    expect(await bed.virsh('vcpucount', 'given-up', '--maximum', '--config')).toBe('2')
    await destroy(room, 'given-up')
    expect(await room.traces('given-up')).toEqual(GONE)
  })

  test('a restart goes on after the stop, and is not done again when it is done', async () => {
    await using room = await bed.room()
    const image = await blankDisk(join(room.temp.path, 'blank.raw'))
    await room.vms.create(order(), spec('again', { image, nics: [{ network: net.name, model: 'virtio' }] }), hear())
    const { job } = order()
    const how = { force: true, grace_ms: 0, address_timeout_ms: 60_000 }
    const aborter = new AbortController()
    const h = hear({
      signal: aborter.signal,
      onPhase: (phase) => phase === 'address' && aborter.abort({ kind: 'drain', message: 'Away.' }),
    })
    await room.vms.restart({ job, epoch: 1 }, 'again', how, h).catch(() => {})
    const id = await bed.virsh('domid', 'again')
    // it waits on, and stops nothing
    const r = await room.vms.restart({ job, epoch: 2 }, 'again', { ...how, address_timeout_ms: 1 }, hear())
    expect(r.summary).toBe('The VM "again" was restarted.')
    // its agent was killed before it could commit
    await room.vms.restart({ job, epoch: 3 }, 'again', how, hear())
    expect(await bed.virsh('domid', 'again')).toBe(id)
    await destroy(room, 'again')
  })

  test('a start that fails leaves the VM as it was', async () => {
    await using room = await bed.room()
    const image = await blankDisk(join(room.temp.path, 'blank.raw'))
    await room.vms.create(order(), spec('stays', { image, start: false }), hear())
    await execa('mv', [join(room.dir, 'stays/disk.qcow2'), join(room.dir, 'stays/away')])
    const e = await failure(room.vms.start(order(), 'stays', { address_timeout_ms: 0 }, hear()))
    expect(e.code).toBe('guest-start')
    const r = await room.vms.registry.get('stays')
    expect(r).toMatchObject({ desired: 'stopped', last: { action: 'start', outcome: 'failed' } })
    expect(r?.doing).toBeUndefined()
    await execa('mv', [join(room.dir, 'stays/away'), join(room.dir, 'stays/disk.qcow2')])
    expect((await room.vms.start(order(), 'stays', { address_timeout_ms: 0 }, hear())).vm?.state).toBe('running')
    await destroy(room, 'stays')
  })
})

describe('several at once', () => {
  test('the same VM from two processes: one makes it, the other finds it', async () => {
    await using room = await bed.room()
    await using other = await bed.room({ of: room })
    const image = await blankDisk(join(room.temp.path, 'blank.raw'))
    const results = await Promise.all(
      [room, other, room].map((r) => r.vms.create(order(), spec('raced', { image }), hear())),
    )
    expect(results.filter((r) => r.unchanged).length).toBe(2)
    expect(new Set(results.map((r) => r.vm?.uuid)).size).toBe(1)
    await destroy(room, 'raced')
  })

  test('one that waits for its address holds up no other', async () => {
    await using room = await bed.room()
    const image = await blankDisk(join(room.temp.path, 'blank.raw'))
    const aborter = new AbortController()
    const h = hear({ signal: aborter.signal })
    const waiting = room.vms.create(
      order(),
      spec('waits', { image, nics: [{ network: net.name, model: 'virtio' }], address_timeout_ms: 600_000 }),
      h,
    )
    await until('it waits for an address', () => h.messages.some((m) => m.includes('no lease yet')))
    await room.vms.create(order(), spec('quick', { image }), hear())
    await destroy(room, 'quick')
    // and whoever wants that very VM is told for whom it waits
    const second = hear({ signal: aborter.signal })
    const stop = room.vms.stop(order(), 'waits', { force: true, grace_ms: 0 }, second)
    await until('the other is told', () => second.messages.some((m) => m.includes('waits until job')))
    aborter.abort({ kind: 'cancel', message: 'Enough.' })
    await Promise.allSettled([waiting, stop])
    expect(await room.traces('waits')).toEqual(GONE)
  })

  test('no address in time is a warning', async () => {
    await using room = await bed.room()
    const image = await blankDisk(join(room.temp.path, 'blank.raw'))
    const made = await room.vms.create(
      order(),
      spec('silent', { image, nics: [{ network: net.name, model: 'virtio' }], address_timeout_ms: 300 }),
      hear(),
    )
    expect(made.warnings.join()).toContain('No address of the VM "silent" was seen: no lease yet on the network "lan"')
    expect(made.vm).toMatchObject({ state: 'running', addresses: [] })
    await destroy(room, 'silent')
  })
})
