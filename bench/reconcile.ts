// Part of `npm run bench:libvirt`: a registry of VMs against as many real domains in a private libvirtd, listed and reconciled.
import { mkdir, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { uuidOfVm } from '../src/domain/index.ts'
import { keepConnected } from '../src/libvirt/index.ts'
import { bootId } from '../src/process/index.ts'
import { vmDomainXml } from '../src/vm/domain.ts'
import { orphanMemory, reconcile } from '../src/vm/index.ts'

import { open, record } from '../test/vm/records.ts'
import { spec } from '../test/vm/bed.ts'
import type { Libvirtd } from '../test/support/libvirtd.ts'
import { format, percentile, table } from './measure.ts'

const INSTANCE = 'bench'
const MIB = 2 ** 20

async function timed<T>(work: () => Promise<T>): Promise<[number, T]> {
  const at = performance.now()
  const value = await work()
  return [performance.now() - at, value]
}

/** @param dir private; the daemon sees it under the same path */
export async function reconcileSection(daemon: Libvirtd, dir: string, n: number, rounds: number): Promise<string[]> {
  const uri = daemon.uri('qemu:///system')
  const vms = join(dir, 'vms')
  await mkdir(vms, { recursive: true })
  await using link = keepConnected(uri)
  const session = await link.session()
  const registry = await open(vms, { instance: INSTANCE })
  const order = { job: '01ARZ3NDEKTSV4RRFFQ69G5FAV', epoch: 1 }
  for (let i = 0; i < n; i++) {
    const name = `vm-${i}`
    const path = join(vms, name, 'disk.qcow2')
    await mkdir(join(vms, name))
    await writeFile(path, '')
    await truncate(path, MIB)
    const disks = [{ id: 'boot', path, format: 'qcow2' as const, size_bytes: MIB, bus: 'virtio', target: 'vda' }]
    const xml = vmDomainXml({
      uuid: uuidOfVm(INSTANCE, name),
      instance: INSTANCE,
      dir: vms,
      order,
      accelerator: { type: 'qemu', cpu: 'maximum' },
      spec: spec(name, { image: path }),
      disks,
      nics: [],
    })
    await session.control.domains.define(xml)
    await registry.update(name, () =>
      record(name, { uuid: uuidOfVm(INSTANCE, name), uri, desired: 'stopped', state: 'stopped', disks }),
    )
  }
  const remember = orphanMemory()
  const pass = () =>
    reconcile({
      registry,
      session,
      dir: vms,
      uri,
      boot_id: bootId(),
      jobs: { busy: async () => false, over: async () => true },
      remember,
      signal: new AbortController().signal,
      log: () => {},
    })
  const [first, found] = await timed(pass)
  const again: number[] = []
  const listed: number[] = []
  const peer: number[] = []
  const virshUri = uri.replace('qemu:', 'qemu+unix:')
  const script = Array.from({ length: n }, (_, i) => `dumpxml vm-${i}`).join(';')
  for (let i = 0; i < rounds; i++) {
    listed.push((await timed(() => session.query.domains.states()))[0])
    again.push((await timed(pass))[0])
    const virsh = () => execa('virsh', ['-q', '-c', virshUri, `list --all;${script}`], { env: { LC_ALL: 'C' } })
    peer.push((await timed(virsh))[0])
  }
  const rows = [
    [`${n} domains listed with their states`, percentile(listed, 50), ''],
    ['reconciled, the first time', first, ''],
    ['reconciled again', percentile(again, 50), percentile(peer, 50) / percentile(again, 50)],
    ['one `virsh` that lists them and prints their XML', percentile(peer, 50), ''],
  ]
  return [
    `\n${n} VMs of a registry against ${n} domains of QEMU's driver that are off, each with a disk: all are listed, their XML read for whose they are, their files looked for, and the registry brought up to date. ${found.drift.length} differences.\n`,
    table(
      ['milliseconds', 'p50', 'virsh takes times'],
      rows.map((r) => r.map((x) => (typeof x === 'number' ? format(x) : x))),
    ),
  ]
}
