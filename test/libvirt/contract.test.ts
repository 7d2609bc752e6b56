// The client against real daemons: libvirt's test driver, and QEMU with TCG. Run it against another libvirt with
// VMSPOOL_TEST_LIBVIRT_TREE=/folder/of/unpacked/packages.
import { randomUUID } from 'node:crypto'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { execa } from 'execa'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Connection, connect, type DomainEvent, type EventSubscription } from '../../src/libvirt/index.ts'
import { isRoot, type Libvirtd, privateLibvirtd, sessionLibvirtd } from '../support/libvirtd.ts'
import { until } from '../support/wait.ts'
import { dirPool, openNetwork, qcow2Volume, qemuDomain, testDomain } from './scene.ts'

/** the next events, as `kind` or `event:detail` */
async function take(events: EventSubscription, count: number): Promise<string[]> {
  const got: string[] = []
  while (got.length < count) {
    const { value, done } = await events.next()
    if (done) break
    got.push(word(value))
  }
  return got
}
const word = (e: DomainEvent) => (e.kind === 'lifecycle' ? `${e.event}:${e.detail}` : e.kind)
const code = (n: number) => expect.objectContaining({ name: 'LibvirtError', code: n })

describe('a session’s daemon and the test driver', () => {
  let daemon: Awaited<ReturnType<typeof sessionLibvirtd>>
  let c: Connection
  beforeAll(async () => {
    daemon = await sessionLibvirtd()
    c = await connect(`test:///default?socket=${daemon.socket}`)
  })
  afterAll(async () => {
    await c?.close()
    await daemon?.[Symbol.asyncDispose]()
  })

  test('qemu:///session is found by the environment', async () => {
    await using q = await connect('qemu:///session', { env: daemon.env })
    expect(q.where).toBe(daemon.socket)
    expect(await q.host.uri()).toBe('qemu:///session')
    expect(await q.host.type()).toBe('QEMU')
    expect(await q.domains.list()).toEqual([])
  })

  test('the host says what it is', async () => {
    expect(await c.host.version()).toMatch(/^\d+\.\d+\.\d+$/)
    expect(await c.host.hypervisorVersion()).toBe('0.0.2')
    expect(await c.host.node()).toMatchObject({ cpu_model: 'i686', memory_bytes: 3 * 2 ** 30, cpus: 16 })
    expect(await c.host.freeMemory()).toBeGreaterThan(0)
    expect(await c.host.hostname()).not.toBe('')
    expect(await c.host.capabilities()).toContain('<capabilities>')
  })

  test('a domain’s life, and the events of it in order', async () => {
    await using events = await c.events()
    const uuid = randomUUID()
    const d = await c.domains.define(testDomain('life', { uuid }))
    expect(d).toEqual({ name: 'life', uuid, id: -1 })
    expect(await c.domains.state(d)).toMatchObject({ state: 'shutoff' })
    const running = await c.domains.create(d)
    expect(running.id).toBeGreaterThan(0)
    expect(await c.domains.state(d)).toEqual({ state: 'running', reason: 'booted' })
    expect(await c.domains.byId(running.id)).toEqual(running)
    expect(await c.domains.byName('life')).toEqual(running)
    expect(await c.domains.byUuid(uuid.toUpperCase())).toEqual(running)
    expect(await c.domains.isActive(d)).toBe(true)
    expect(await c.domains.isPersistent(d)).toBe(true)
    expect(await c.domains.info(d)).toMatchObject({ state: 'running', max_memory_bytes: 8 * 2 ** 20, vcpus: 1 })
    await expect(c.domains.create(d)).rejects.toEqual(code(1)) // QEMU's driver says 55
    await c.domains.suspend(d)
    expect(await c.domains.state(d)).toEqual({ state: 'paused', reason: 'user' })
    await c.domains.resume(d)
    await c.domains.shutdown(d)
    await c.domains.create(d)
    await c.domains.destroy(d)
    await expect(c.domains.destroy(d)).rejects.toEqual(code(55))
    await c.domains.undefine(d, ['managed_save', 'snapshots_metadata'])
    expect(await c.domains.byUuid(uuid)).toBeUndefined()
    expect(await take(events, 8)).toEqual([
      ...['defined:added', 'started:booted', 'suspended:paused', 'resumed:unpaused', 'stopped:shutdown'],
      ...['started:booted', 'stopped:destroyed', 'undefined:removed'],
    ])
  })

  test('defining twice with one uuid changes the domain, with another uuid it is refused', async () => {
    await using events = await c.events()
    const uuid = randomUUID()
    const d = await c.domains.define(testDomain('twice', { uuid }))
    expect(await c.domains.define(testDomain('twice', { uuid, more: '<title>second</title>' }))).toEqual(d)
    expect(await c.domains.title(d)).toBe('second')
    await expect(c.domains.define(testDomain('twice'))).rejects.toEqual(code(9))
    await c.domains.undefine(d)
    expect(await take(events, 3)).toEqual(['defined:added', 'defined:updated', 'undefined:removed'])
  })

  test('metadata is set, changed, read and removed, and tells of it', async () => {
    const d = await c.domains.define(testDomain('meta'))
    await using events = await c.events({ kinds: ['metadata'] })
    const ns = 'https://example.org/ns'
    expect(await c.domains.metadata(d, ns)).toBeUndefined()
    await c.domains.setMetadata(d, ns, { prefix: 'v', xml: '<job id="7">ä &amp; ö</job>' })
    expect(await c.domains.metadata(d, ns)).toBe('<job id="7">ä &amp; ö</job>')
    expect(await c.domains.xml(d)).toContain(`<v:job xmlns:v="${ns}" id="7"`)
    await c.domains.setMetadata(d, ns, null)
    expect(await c.domains.metadata(d, ns)).toBeUndefined()
    await c.domains.setTitle(d, 'a title')
    await c.domains.setDescription(d, 'two\nlines')
    expect([await c.domains.title(d), await c.domains.description(d)]).toEqual(['a title', 'two\nlines'])
    await c.domains.setTitle(d, null)
    expect(await c.domains.title(d)).toBeUndefined()
    expect((await events.next()).value).toEqual({ kind: 'metadata', domain: d, type: 'element', uri: ns })
    await c.domains.undefine(d)
  })

  test('autostart and managed save', async () => {
    const d = await c.domains.define(testDomain('saved'))
    expect(await c.domains.autostart(d)).toBe(false)
    await c.domains.setAutostart(d, true)
    expect(await c.domains.autostart(d)).toBe(true)
    expect((await c.domains.list(['autostart'])).map((x) => x.name)).toEqual(['saved'])
    await c.domains.create(d)
    await c.domains.managedSave(d)
    expect(await c.domains.hasManagedSave(d)).toBe(true)
    await expect(c.domains.undefine(d)).rejects.toEqual(code(55))
    await c.domains.removeManagedSave(d)
    expect(await c.domains.hasManagedSave(d)).toBe(false)
    await c.domains.undefine(d)
  })

  test('what the driver does not know is refused with its code', async () => {
    const d = await c.domains.define(testDomain('codes'))
    await expect(c.domains.undefine(d, ['nvram'])).rejects.toEqual(code(8))
    await c.domains.undefine(d)
    await expect(c.domains.state(d)).rejects.toEqual(code(42))
    await expect(c.domains.define('<domain')).rejects.toEqual(code(35))
    await expect(c.domains.define('<domain type="test"/>')).rejects.toEqual(code(21))
    expect(await c.domains.byName('no such')).toBeUndefined()
    expect(await c.networks.byUuid(randomUUID())).toBeUndefined()
    expect(await c.pools.byName('no such')).toBeUndefined()
    await expect(c.domains.xml(d, ['all' as 'secure'])).rejects.toThrow(/"all" is no flag/)
    await expect(c.domains.byUuid('no uuid')).rejects.toThrow(TypeError)
  })

  test('addresses, states and statistics of all in one call', async () => {
    const made = await Promise.all(
      Array.from({ length: 5 }, (_, i) =>
        c.domains.define(
          testDomain(`many-${i}`, {
            more: `<devices><interface type='network'><mac address='52:54:00:00:00:0${i}'/><source network='default'/></interface></devices>`,
          }),
        ),
      ),
    )
    await c.domains.create(made[2]!)
    const states = await c.domains.states()
    expect(new Map(states.map((s) => [s.domain.name, s.state]))).toEqual(
      new Map([
        ['test', 'running'],
        ...made.map((d, i): [string, string] => [d.name, i === 2 ? 'running' : 'shutoff']),
      ]),
    )
    expect((await c.domains.list(['inactive'])).map((d) => d.name).sort()).toEqual([0, 1, 3, 4].map((i) => `many-${i}`))
    const [one] = await c.domains.stats({ domains: [made[2]!], groups: ['state'] })
    expect(one).toMatchObject({ domain: { name: 'many-2' }, values: { 'state.state': 1 } })
    expect(await c.domains.addresses(made[2]!)).toMatchObject([
      {
        mac: '52:54:00:00:00:02',
        addresses: [{ family: 'ipv4', address: expect.stringMatching(/^192\.168\.122\./), prefix: 24 }],
      },
    ])
    await c.domains.destroy(made[2]!)
    for (const d of made) await c.domains.undefine(d)
  })

  test('events of one domain only, and none after the subscription is closed', async () => {
    const [a, b] = [await c.domains.define(testDomain('a')), await c.domains.define(testDomain('b'))]
    const ofB = await c.events({ domain: b })
    await c.domains.create(a)
    await c.domains.create(b)
    expect((await ofB.next()).value).toMatchObject({ domain: { name: 'b' }, event: 'started' })
    const waiting = ofB.next()
    await ofB.close()
    expect(await waiting).toEqual({ done: true, value: undefined })
    await c.domains.destroy(b)
    expect(await ofB.next()).toEqual({ done: true, value: undefined })
    for (const d of [a, b]) await c.domains.destroy(d).catch(() => {})
    for (const d of [a, b]) await c.domains.undefine(d)
  })

  test('a reader that is too slow is told that events are lost', async () => {
    const events = await c.events({ limit: 3 })
    const d = await c.domains.define(testDomain('flood'))
    for (let i = 0; i < 3; i++) {
      await c.domains.create(d)
      await c.domains.destroy(d)
    }
    await c.domains.undefine(d)
    expect(await take(events, 3)).toEqual(['defined:added', 'started:booted', 'stopped:destroyed'])
    await expect(events.next()).rejects.toMatchObject({ name: 'EventsLostError' })
    expect(await events.next()).toEqual({ done: true, value: undefined })
  })

  test('a connection for reading changes nothing', async () => {
    await using r = await connect(`test:///default?socket=${daemon.socket}`, { readonly: true })
    expect((await r.domains.list()).map((d) => d.name)).toEqual(['test'])
    await expect(r.domains.define(testDomain('no'))).rejects.toEqual(code(29))
  })

  test('what this client calls it, virsh calls it too', async () => {
    const d = await c.domains.define(testDomain('same', { more: '<description>ünï</description>' }))
    const uri = `test:///default?socket=${daemon.socket}`
    expect((await daemon.virsh(uri, 'domuuid', 'same')).trim()).toBe(d.uuid)
    expect(`${await daemon.virsh(uri, 'dumpxml', 'same')}\n`.trim()).toBe((await c.domains.xml(d)).trim())
    expect((await daemon.virsh(uri, 'uri')).trim()).toContain('test')
    await c.domains.undefine(d)
  })

  test('a URI that the daemon does not know, and a socket that is none', async () => {
    await expect(connect(`nothing:///system?socket=${daemon.socket}`)).rejects.toMatchObject({ name: 'LibvirtError' })
    await expect(connect(`test:///default?socket=${daemon.dir}/none`)).rejects.toMatchObject({
      name: 'ConnectionError',
      reason: 'unreachable',
      message: expect.stringContaining('is libvirtd'),
    })
  })
})

describe.runIf(isRoot)('a system’s daemon and QEMU', () => {
  let daemon: Libvirtd
  let c: Connection
  beforeAll(async () => {
    daemon = await privateLibvirtd()
    c = await connect(daemon.uri('qemu:///system'))
    await c.host.capabilities() // the first time, every QEMU is started once
  }, 600_000)
  afterAll(async () => {
    await c?.close()
    await daemon?.[Symbol.asyncDispose]()
  })
  /** programs that were told to end may take a moment */
  const cleanSoon = async () => {
    const deadline = performance.now() + 120_000
    for (;;) {
      const left = await leftovers()
      if (isDeepStrictEqual(left, CLEAN) || performance.now() > deadline) return left
      await sleep(50)
    }
  }
  const leftovers = async () => ({
    domains: await c.domains.list(),
    networks: await c.networks.list(),
    pools: await c.pools.list(),
    processes: (await daemon.inside(['sh', '-c', 'cat /proc/[0-9]*/comm']))
      .split('\n')
      .filter((p) => /^(qemu|dnsmasq)/.test(p)),
    definitions: readdirSync(join(daemon.dir, 'etc/qemu')).filter((f) => f.endsWith('.xml')),
    links: (await daemon.inside(['ip', '-o', 'link'])).split('\n').length,
  })
  const CLEAN = { domains: [], networks: [], pools: [], processes: [], definitions: [], links: 1 }

  test('capabilities of the host and of a kind of domain', async () => {
    const version = process.env.VMSPOOL_TEST_LIBVIRT_VERSION // of newer.process.ts
    if (version !== undefined) expect(await c.host.version()).toBe(version)
    expect(await c.host.capabilities()).toContain('<capabilities>')
    const caps = await c.host.domainCapabilities({ arch: 'x86_64', machine: 'q35', virt_type: 'qemu' })
    expect(caps).toContain('<domain>qemu</domain>')
    await expect(c.host.domainCapabilities({ virt_type: 'nothing' })).rejects.toEqual(code(8))
  })

  test('a guest without a disk is defined, started, asked, saved, ended and forgotten', async () => {
    await using events = await c.events({ kinds: ['lifecycle', 'reboot', 'agent'] })
    const uuid = randomUUID()
    await expect(
      c.domains.define(qemuDomain('tcg').replace('<vcpu>', '<nonsense/><vcpu>'), ['validate']),
    ).rejects.toEqual(code(92))
    const d = await c.domains.define(qemuDomain('tcg', { uuid }), ['validate'])
    await c.domains.create(d, ['paused'])
    expect(await c.domains.state(d)).toEqual({ state: 'paused', reason: 'user' })
    await c.domains.resume(d)
    expect(await c.domains.state(d)).toEqual({ state: 'running', reason: 'unpaused' })
    await expect(c.domains.create(d)).rejects.toEqual(code(55))
    await expect(c.domains.shutdown(d, ['agent'])).rejects.toEqual(code(86))
    await c.domains.shutdown(d, ['acpi']) // nobody there who notices
    await c.domains.reset(d)
    const [stats] = await c.domains.stats({ groups: ['state', 'cpu_total', 'balloon', 'vcpu'], flags: ['nowait'] })
    expect(stats).toMatchObject({
      domain: { uuid },
      values: { 'state.state': 1, 'balloon.maximum': 32 * 1024, 'vcpu.current': 1 },
    })
    await expect(c.domains.addresses(d, 'agent')).rejects.toEqual(code(86))
    expect(await c.domains.addresses(d, 'lease')).toEqual([])
    await c.domains.managedSave(d)
    expect(await c.domains.hasManagedSave(d)).toBe(true)
    await expect(c.domains.undefine(d)).rejects.toEqual(code(55))
    await c.domains.create(d)
    expect(await c.domains.state(d)).toMatchObject({ state: 'running' })
    await c.domains.destroy(d, ['graceful'])
    await c.domains.undefine(d, ['managed_save', 'snapshots_metadata', 'nvram', 'checkpoints_metadata'])
    const got: string[] = []
    for await (const e of events) {
      expect(e.domain.uuid).toBe(uuid)
      got.push(word(e))
      if (got.at(-1) === 'undefined:removed') break
    }
    // `shutdown` comes from QEMU itself, if it is fast enough
    expect(got.filter((e) => e.includes(':') && !e.startsWith('shutdown'))).toEqual([
      ...['defined:added', 'started:booted', 'suspended:paused', 'resumed:unpaused'],
      ...['suspended:paused', 'stopped:saved', 'started:restored', 'resumed:from_snapshot'],
      ...['stopped:destroyed', 'undefined:removed'],
    ])
    expect(got).toContain('agent')
    expect(got).toContain('reboot')
    expect(await cleanSoon()).toEqual(CLEAN)
  }, 600_000)

  test('a network gives a guest its address, and the lease says until when', async () => {
    const mac = '52:54:00:ab:cd:01'
    const n = await c.networks.define(openNetwork('lan', 'vbr-t'), ['validate'])
    expect(await c.networks.isActive(n)).toBe(false)
    await c.networks.create(n)
    await expect(c.networks.create(n)).rejects.toEqual(code(55))
    expect(await c.networks.bridge(n)).toBe('vbr-t')
    expect(await c.networks.byName('lan')).toEqual(n)
    expect(await c.networks.list(['active'])).toEqual([n])
    expect(await c.networks.leases(n)).toEqual([])
    const d = await c.domains.createTransient(qemuDomain('leased', { network: 'lan', mac }))
    const [lease] = await until(
      'the guest has a lease',
      async () => {
        const leases = await c.networks.leases(n, { mac })
        return leases.length > 0 ? leases : undefined
      },
      { deadline_ms: 240_000 },
    )
    expect(lease).toMatchObject({
      interface: 'vbr-t',
      mac,
      family: 'ipv4',
      prefix: 24,
      address: expect.stringMatching(/^192\.0\.2\./),
    })
    expect(lease!.expires_s! * 1000 - Date.now()).toBeLessThanOrEqual(121_000)
    expect(await c.domains.addresses(d)).toEqual([
      { name: expect.any(String), mac, addresses: [{ family: 'ipv4', address: lease!.address, prefix: 24 }] },
    ])
    expect(await c.networks.leases(n, { mac: '52:54:00:ab:cd:02' })).toEqual([])
    await c.domains.destroy(d)
    expect(await c.domains.byUuid(d.uuid)).toBeUndefined() // a transient one is gone
    await c.networks.setAutostart(n, true)
    expect(await c.networks.autostart(n)).toBe(true)
    await c.networks.setAutostart(n, false)
    expect(await c.networks.xml(n, ['inactive'])).toContain("<bridge name='vbr-t'")
    await c.networks.destroy(n)
    await c.networks.undefine(n)
    expect(await cleanSoon()).toEqual(CLEAN)
  }, 600_000)

  test('a pool and its volumes', async () => {
    const path = join(daemon.dir, 'pool')
    const x = await c.pools.define(dirPool('store', path))
    await c.pools.build(x)
    await c.pools.create(x)
    expect(await c.pools.info(x)).toMatchObject({ state: 'running', capacity_bytes: expect.any(Number) })
    const v = await c.volumes.create(x, qcow2Volume('one.qcow2', 8))
    expect(v).toEqual({ pool: 'store', name: 'one.qcow2', key: join(path, 'one.qcow2') })
    await expect(c.volumes.create(x, qcow2Volume('one.qcow2', 8))).rejects.toEqual(code(90))
    expect(await c.volumes.info(v)).toMatchObject({ type: 'file', capacity_bytes: 8 * 2 ** 20 })
    await c.volumes.resize(v, 16 * 2 ** 20)
    expect(await c.volumes.info(v)).toMatchObject({ capacity_bytes: 16 * 2 ** 20 })
    const copy = await c.volumes.createFrom(x, qcow2Volume('two.qcow2', 16), v)
    expect((await execa('qemu-img', ['info', '--output=json', await c.volumes.path(copy)])).stdout).toContain(
      '"virtual-size": 16777216',
    )
    expect((await c.pools.volumes(x)).map((y) => y.name).sort()).toEqual(['one.qcow2', 'two.qcow2'])
    expect(await c.volumes.byPath(v.key)).toEqual(v)
    expect(await c.volumes.byName(x, 'two.qcow2')).toEqual(copy)
    expect(await c.pools.ofVolume(v)).toEqual(x)
    await c.volumes.delete(v)
    await c.volumes.delete(copy)
    await c.pools.refresh(x)
    expect(await c.volumes.byName(x, 'one.qcow2')).toBeUndefined()
    await c.pools.destroy(x)
    await c.pools.delete(x)
    await c.pools.undefine(x)
    expect(existsSync(path)).toBe(false)
    expect(await cleanSoon()).toEqual(CLEAN)
  })
})
