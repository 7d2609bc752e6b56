// Manifests of VM jobs: what they mean, and what is wrong with them, told where it stands.
import { describe, expect, test } from 'vitest'
import { parseManifest } from '../../src/manifest/index.ts'
import type { VmManifest } from '../../src/manifest/index.ts'

const read = (m: object) => parseManifest(Buffer.from(JSON.stringify(m)), { fileName: 'm.json' })

function told(m: object): string[] {
  const r = read(m)
  return (r.state === 'incomplete' ? [] : r.diagnostics).map((d) => `${d.severity} ${d.path}: ${d.message}`)
}

function accepted(m: object): VmManifest {
  const r = read(m)
  expect(r.state === 'complete' ? [] : r).toEqual([])
  return (r as unknown as { manifest: VmManifest }).manifest
}

const create = (vm: object, more: object = {}) => ({ kind: 'vm', action: 'create', name: 'web', vm, ...more })

describe('what it means', () => {
  test("Ghost's names are ours, amounts are bytes, times milliseconds", () => {
    const m = accepted(
      create(
        { template: 'debian-12', vcpu: 2, ram_gb: 4, disk_gb: 50, disks: [{ size: '2G' }] },
        { name: undefined, vm_id: 'web', wait_for_address: '5m' },
      ),
    )
    expect(m).toMatchObject({
      name: 'web',
      wait_for_address_ms: 300_000,
      vm: { vcpus: 2, memory_bytes: 4 * 2 ** 30, disk_bytes: 50 * 2 ** 30, disks: [{ size_bytes: 2 * 2 ** 30 }] },
    })
    expect(accepted({ kind: 'vm', action: 'stop', name: 'web', grace: '90s' })).toMatchObject({ grace_ms: 90_000 })
  })

  test("a VM made of a job's result waits for the job", () => {
    expect(accepted(create({ from_job: 'exported' })).after).toEqual([{ job: 'exported', when: 'success' }])
  })
})

describe('what is wrong', () => {
  const cases: [string, object, RegExp][] = [
    ['no name', { kind: 'vm', action: 'start' }, /^error : name is missing/],
    [
      'a short name',
      create({ template: 't' }, { name: 'ab' }),
      /^error name: name is "ab"; the name of a new VM is a host/,
    ],
    ['a name that is no host name', create({ template: 't' }, { name: 'my_vm' }), /^error name: name is "my_vm"/],
    ["the registry's name", create({ template: 't' }, { name: 'vms.json' }), /^error name: /],
    ['two names', { kind: 'vm', action: 'start', name: 'a', vm_id: 'b' }, /^error vm_id: name is "a" and vm_id is "b"/],
    ['nothing to create', { kind: 'vm', action: 'create', name: 'web' }, /^error : vm is missing/],
    ['nothing to boot from', create({ vcpus: 1 }), /^error vm: vm names nothing to boot from/],
    [
      'two things to boot from',
      create({ template: 't', from_job: 'j' }),
      /^error vm.from_job: vm.from_job stands beside vm.template/,
    ],
    [
      'vm beside start',
      { kind: 'vm', action: 'start', name: 'web', vm: { vcpus: 2 } },
      /^error vm: vm says what a new VM/,
    ],
    [
      'secure boot in a BIOS',
      create({ template: 't', secure_boot: true }),
      /^error vm.secure_boot: .*needs "firmware": "uefi"/,
    ],
    [
      'both network and bridge',
      create({ template: 't', networks: [{ network: 'a', bridge: 'b' }] }),
      /^error vm.networks\[0\].bridge/,
    ],
    [
      'one address twice',
      create({ template: 't', networks: [{ mac: '52:54:00:00:00:0A' }, { mac: '52:54:00:00:00:0a' }] }),
      /^error vm.networks\[1\].mac: .*networks\[0\] has already/,
    ],
    [
      'amounts that differ',
      create({ template: 't', memory: '2G', ram_gb: 4 }),
      /^error vm.ram_gb: vm.memory is "2G" and vm.ram_gb is 4/,
    ],
    [
      'a disk without size or path',
      create({ template: 't', disks: [{}] }),
      /^error vm.disks\[0\]: .*neither size .* nor path/,
    ],
    [
      'a relative path',
      create({ image: 'a.qcow2' }),
      /^error vm.image: vm.image is "a.qcow2"; it must be an absolute path/,
    ],
    ['a relative path of a disk', create({ template: 't', disks: [{ path: 'b.raw' }] }), /^error vm.disks\[0\].path/],
    [
      'user-data and its parts',
      create({ template: 't', cloud_init: { user_data: '#!/bin/sh', user: 'ops' } }),
      /^error vm.cloud_init.user: .*so user would be lost/,
    ],
    [
      'a whole network-config and its parts',
      create({ template: 't', cloud_init: { network: { config: {}, address: '10.0.0.1/24' } } }),
      /^error vm.cloud_init.network.address/,
    ],
    [
      'a gateway with DHCP',
      create({ template: 't', cloud_init: { network: { gateway: '10.0.0.1' } } }),
      /^error vm.cloud_init.network.gateway/,
    ],
    [
      'a password in clear',
      create({ template: 't', cloud_init: { password_hash: 'secret' } }),
      /^error vm.cloud_init.password_hash: .*must be a hash/,
    ],
    [
      'a field of another action',
      { kind: 'vm', action: 'start', name: 'web', keep_disks: true },
      /^warning keep_disks: keep_disks means nothing to "start"; it belongs to delete\.$/,
    ],
    ['grace beside force', { kind: 'vm', action: 'stop', name: 'web', force: true, grace: '1m' }, /^warning grace/],
    [
      'an address of what does not start',
      create({ template: 't', start: false }, { wait_for_address: '1m' }),
      /^warning wait_for_address/,
    ],
  ]
  for (const [what, manifest, says] of cases) {
    test(what, () => {
      const found = told(manifest)
      expect(
        found.filter((t) => says.test(t)),
        found.join('\n'),
      ).toHaveLength(1)
      // one fault, one finding
      expect(found).toHaveLength(1)
    })
  }

  test('what is right is told nothing', () => {
    expect(
      told(create({ template: 'debian-12', vcpus: 2, memory: '2G', firmware: 'uefi', secure_boot: true })),
    ).toEqual([])
    for (const action of ['start', 'stop', 'restart', 'delete'])
      expect(told({ kind: 'vm', action, name: 'an old name with blanks' })).toEqual([])
  })
})
