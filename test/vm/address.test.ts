// The address of a guest that was just started, with the real daemon and its dnsmasq. The guest is the boot ROM of its network card, which asks
// for an address as any guest does, within seconds.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Connection, connect } from '../../src/libvirt/index.ts'
import { leasesBefore, waitForAddress, type WaitForAddress } from '../../src/vm/address.ts'
import { openLink, type VmLink } from '../../src/vm/link.ts'
import { openNetwork, qemuDomain } from '../libvirt/scene.ts'
import { isRoot, type Libvirtd, privateLibvirtd } from '../support/libvirtd.ts'
import { until } from '../support/wait.ts'

const UUID = '6f1d4a52-0f6e-4d5c-9a53-0c2f5f3a7b01'
const MAC = '52:54:00:AB:cd:01'
const LONG_MS = 90_000

describe.runIf(isRoot)('the address of a guest', () => {
  let daemon: Libvirtd
  let c: Connection
  let link: VmLink
  const abort = new AbortController()
  beforeAll(async () => {
    daemon = await privateLibvirtd()
    await daemon.natNetwork()
    c = await connect(daemon.uri('qemu:///system'), { quick_ms: 120_000 })
    link = openLink({ uri: daemon.uri('qemu:///system'), log: { info() {}, warn() {} } })
  }, 600_000)
  afterAll(async () => {
    await link?.[Symbol.asyncDispose]()
    await c?.close()
    await daemon?.[Symbol.asyncDispose]()
  })

  /** defines and starts it anew */
  async function start(xml: string): Promise<void> {
    const d = await c.domains.define(xml)
    if (await c.domains.isActive(d)) await c.domains.destroy(d)
    await c.domains.create(d)
  }
  const asking = qemuDomain('asks', { uuid: UUID, network: 'default', mac: MAC })
  const silent = asking.replace("<boot dev='network'/>", "<boot dev='hd'/>")

  async function wait(o: Partial<WaitForAddress>) {
    const told: string[] = []
    const none: string[] = []
    const addresses = await waitForAddress({
      link,
      uuid: UUID,
      macs: [MAC],
      timeout_ms: LONG_MS,
      signal: abort.signal,
      onWait: (m) => void told.push(m),
      onNone: (m) => void none.push(m),
      ...o,
    })
    return { addresses, told, none }
  }

  test('is that of its lease, and never one that an earlier boot took', async () => {
    const s = { query: c }
    expect(await leasesBefore(s, [MAC])).toEqual([])
    await start(asking)
    const first = await wait({ before: [] })
    expect(first.addresses).toEqual([expect.stringMatching(/^192\.0\.2\.\d+$/)])
    expect(first.none).toEqual([])

    const before = await leasesBefore(s, [MAC])
    expect(before).toMatchObject([{ mac: MAC.toLowerCase(), address: first.addresses[0] }])
    // the same machine, whose guest asks nobody: libvirt tells of an address all the same
    await start(silent)
    const d = (await c.domains.byUuid(UUID))!
    expect((await c.domains.addresses(d, 'lease'))[0]!.addresses[0]!.address).toBe(first.addresses[0])
    const stale = await wait({ before, timeout_ms: 2500 })
    expect(stale.addresses).toEqual([])
    expect(stale.none).toEqual([
      `no lease yet on the network "default"; ${first.addresses[0]} is of an earlier boot; the guest's agent is not connected; there was none within 3 s.`,
    ])
    // it ran already when somebody asked: then what is leased is what is known
    expect((await wait({})).addresses).toEqual(first.addresses)
  }, 600_000)

  test('is found when libvirtd is killed in the middle', async () => {
    const d = (await c.domains.byUuid(UUID))!
    await c.domains.destroy(d)
    const before = await leasesBefore({ query: c }, [MAC])
    await start(asking)
    // its guest stands still until the daemon is there again
    await c.domains.suspend(d)
    const told: string[] = []
    const waiting = wait({ before, onWait: (m) => void told.push(m) })
    await until('it waits for a lease', () => told.some((m) => m.startsWith('waits for an address: no lease yet')))
    await daemon.signal('KILL')
    await until('it waits for libvirt', () => told.some((m) => /libvirt/.test(m) && !/lease/.test(m)))
    await daemon.start()
    c = await connect(daemon.uri('qemu:///system'), { quick_ms: 120_000 })
    await until('the guest goes on', () => c.domains.resume(d).then(() => true))
    expect((await waiting).addresses).toEqual([expect.stringMatching(/^192\.0\.2\.\d+$/)])
    expect((await leasesBefore({ query: c }, [MAC]))[0]!.expires_s).not.toBe(before[0]!.expires_s)
  }, 600_000)

  test('a lease that never ends counts when somebody answers there', async () => {
    const xml = openNetwork('forever', 'vs-forever')
      .replaceAll('192.0.2.', '198.51.100.')
      .replace("expiry='2'", "expiry='0'")
    await c.networks.createTransient(xml)
    const mac = '52:54:00:ab:cd:02'
    const uuid = '6f1d4a52-0f6e-4d5c-9a53-0c2f5f3a7b02'
    await start(qemuDomain('forever', { uuid, network: 'forever', mac }))
    const { addresses } = await wait({ uuid, macs: [mac], before: [] })
    expect(addresses).toEqual([expect.stringMatching(/^198\.51\.100\.\d+$/)])
    const before = await leasesBefore({ query: c }, [mac])
    expect(before).toMatchObject([{ expires_s: null }])
    const asked: string[] = []
    const answers = (yes: boolean) => async (a: string) => {
      asked.push(a)
      return yes
    }
    const o = { uuid, macs: [mac], before, timeout_ms: 500 }
    expect((await wait({ ...o, answers: answers(false) })).addresses).toEqual([])
    expect((await wait({ ...o, answers: answers(true) })).addresses).toEqual(addresses)
    expect(new Set(asked)).toEqual(new Set(addresses))
    // whoever answers from here, whose network is another one, is not that card
    expect((await wait(o)).addresses).toEqual([])
    await c.domains.destroy((await c.domains.byUuid(uuid))!)
  }, 600_000)

  test('a bridge tells nothing, a VM that goes off is not waited for, and an abort ends it', async () => {
    await daemon.inside(['/bin/sh', '-c', 'ip link add vs-bare type bridge && ip link set vs-bare up'])
    const bare = silent
      .replace("<interface type='network'>", "<interface type='bridge'>")
      .replace("<source network='default'/>", "<source bridge='vs-bare'/>")
      .replace(MAC, '52:54:00:ab:cd:03')
    await start(bare)
    const o = { macs: ['52:54:00:ab:cd:03'], before: [] }
    const none = await wait({ ...o, timeout_ms: 300 })
    expect(none.addresses).toEqual([])
    const why =
      'no lease can be seen on the bridge "vs-bare", so only an agent in the guest can tell; the guest\'s agent is not connected'
    expect(none.none).toEqual([`${why}; there was none within 0 s.`])
    const told: string[] = []
    const waiting = wait({ ...o, onWait: (m) => void told.push(m) })
    await until('it waits', () => told.length > 0)
    expect(told[0]).toBe(`waits for an address: ${why}`)
    await c.domains.destroy((await c.domains.byUuid(UUID))!)
    expect(await waiting).toMatchObject({ addresses: [], none: [expect.stringMatching(/^The VM went off.*destroyed/)] })
    await c.domains.undefine((await c.domains.byUuid(UUID))!)
    expect((await wait(o)).none).toEqual(['libvirt has no such domain any more.'])
    const reason = new Error('enough')
    await start(bare)
    const cut = wait({ ...o, onWait: () => abort.abort(reason) })
    await expect(cut).rejects.toBe(reason)
  }, 600_000)
})
