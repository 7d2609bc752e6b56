// The address of a VM whose start nobody waited for: its boot ROM asks a real network for one. And a lease of an earlier boot, which is none.
import { mkdir, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { uuidOfVm } from '../../src/domain/index.ts'
import { connect } from '../../src/libvirt/index.ts'
import { leaseLength, noteAddresses } from '../../src/vm/leased.ts'
import { openRegistry } from '../../src/vm/registry.ts'
import { openNetwork, qemuDomain } from '../libvirt/scene.ts'
import { isRoot, privateLibvirtd } from '../support/libvirtd.ts'
import { tempDir } from '../support/temp.ts'
import { record } from '../vm/records.ts'
import { cli } from './run.ts'

const mac = '52:54:00:11:22:33'

test.runIf(isRoot)(
  'what DHCP gave since the VM runs is its address; what it gave before is not',
  { timeout: 600_000 },
  async () => {
    await using dir = await tempDir()
    await using daemon = await privateLibvirtd()
    const uri = daemon.uri('qemu:///system')
    const uuid = uuidOfVm('default', 'web')
    const file = async (name: string, text: string): Promise<string> => {
      await writeFile(join(dir.path, name), text)
      return join(dir.path, name)
    }
    await daemon.virsh(uri, 'net-create', await file('net.xml', openNetwork('lan', 'vbr-lan')))
    const vms = join(dir.path, 'default/output/vms')
    await mkdir(vms, { recursive: true })
    const enter = (state_at: Date) => {
      const nics = [{ mac, network: 'lan', model: 'virtio' }]
      const r = record('web', { uuid, uri, nics, host: hostname(), state_at: state_at.toISOString() })
      const all = { schema: 1, revision: 1, instance: 'default', host: hostname(), vms: { web: r } }
      return writeFile(join(vms, 'vms.json'), JSON.stringify(all))
    }
    const ip = (...args: string[]) => cli(['vm', 'ip', 'web', '--root', dir.path, ...args])

    await enter(new Date())
    await daemon.virsh(uri, 'create', await file('web.xml', qemuDomain('web', { uuid, mac, network: 'lan' })))
    const first = await ip('--wait', '--timeout', '400s')
    expect(first, first.err).toMatchObject({ code: 0, out: expect.stringMatching(/^192\.0\.2\.\d+\n$/), err: '' })
    expect((await ip('--all')).out).toBe(first.out)
    const listed = JSON.parse((await cli(['vm', 'list', '--root', dir.path, '-o', 'json'])).out)
    expect(listed[0].addresses).toEqual([first.out.trim()])

    // The agent enters it for those who may not ask libvirt.
    const registry = await openRegistry({ dir: vms, instance: 'default', host: hostname(), log() {} })
    await using connection = await connect(uri)
    await noteAddresses(registry, connection)
    expect((await registry.get('web'))?.addresses).toEqual([first.out.trim()])

    // the same lease, as it looks to a later boot
    await enter(new Date(Date.now() + 60_000))
    await noteAddresses(registry, connection)
    expect((await registry.get('web'))?.addresses).toEqual([])
    expect(await ip()).toMatchObject({
      code: 1,
      out: '',
      err: expect.stringContaining('no address of it is known (yet)'),
    })
  },
)

test('how long a lease lasts is what the network says, the longest of several, else an hour', () => {
  const network = (dhcp: string) => `<network><ip><dhcp>${dhcp}</dhcp></ip></network>`
  expect(leaseLength(network(''))).toBe(3600)
  expect(leaseLength(network(`<range start='a' end='b'><lease expiry='90' unit='seconds'/></range>`))).toBe(90)
  expect(leaseLength(network(`<range><lease expiry="2"/></range><host><lease expiry='3' unit='hours'/></host>`))).toBe(
    10_800,
  )
  expect(leaseLength(network(`<range><lease expiry='0'/></range>`))).toBe(3600)
})
