// A VM that is gone gives its address back: dnsmasq would keep it until the lease ends.
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { connect } from '../../src/libvirt/index.ts'
import { releaseLeases } from '../../src/vm/lease.ts'
import { isRoot, privateLibvirtd } from '../support/libvirtd.ts'

test.skipIf(!isRoot)('the lease of a card is given back, others stay; from elsewhere nothing is sent', async () => {
  await using daemon = await privateLibvirtd()
  const { bridge } = await daemon.natNetwork('lan')
  const uri = daemon.uri('qemu:///system')
  const macs = ['52:54:00:11:22:33', '52:54:00:11:22:44']
  await Promise.all(
    macs.map((mac, i) => {
      const card = [
        `ip link add v${i} type veth peer name c${i}; ip link set v${i} master ${bridge}; ip link set v${i} up`,
        `ip link set c${i} address ${mac}; ip link set c${i} up`,
        `busybox udhcpc -i c${i} -q -f -t 20 -T 2 -A 1 -s /bin/true`,
      ]
      return daemon.inside(['sh', '-ec', card.join('\n')])
    }),
  )
  const leases = () => daemon.virsh(uri, 'net-dhcp-leases', 'lan')
  for (const mac of macs) expect(await leases()).toContain(mac)

  await using query = await connect(uri)
  const astray = await releaseLeases({ query }, [macs[0]!])
  expect(astray.map((l) => l.mac)).toEqual([macs[0]])
  expect(await leases()).toContain(macs[0])

  const script = join(import.meta.dirname, 'lease.process.ts')
  expect(JSON.parse(await daemon.inside([process.execPath, script, uri, macs[0]!]))).toEqual([])
  expect(await leases()).not.toContain(macs[0])
  expect(await leases()).toContain(macs[1])
})
