/**
 * Entries that were lost, found again: a domain that carries our mark tells what the VM is. What it should be is not written there, so that is
 * what it is now. Also VMs of Ghost Agent, whose file knew neither uuid nor cards: the domain of that name on that disk is the one.
 */
import { dirname, join } from 'node:path'
import { XMLParser } from 'fast-xml-parser'
import type { Ownership } from '../domain/index.ts'
import type { Session } from '../libvirt/index.ts'
import type { Registry } from './registry.ts'
import { withHeader } from './registry-disk.ts'
import { vmStateOf } from './state.ts'
import type { VmDisk, VmRecord } from './types.ts'
import type { SeenDomain } from './look.ts'

/** @param ours the domains with our mark. @returns the names that were found again */
export async function recoverRegistry(
  registry: Registry,
  s: Session,
  ours: readonly (SeenDomain & { owner: Ownership })[],
  o: { uri: string; signal: AbortSignal },
): Promise<string[]> {
  const lost = await registry.toRecover()
  if (!lost) return []
  const known = new Set((await registry.all()).map((r) => r.name))
  const records: VmRecord[] = []
  for (const d of ours) {
    const { name } = d.owner
    if (known.has(name) || name !== d.domain.name || (lost.names && !lost.names.includes(name))) continue
    const xml = await s.query.domains.xml(d.domain, ['inactive'], { signal: o.signal })
    const state = vmStateOf(d.state)
    const now = new Date().toISOString()
    const hardware = hardwareOf(xml)
    records.push({
      uuid: d.domain.uuid,
      name,
      host: registry.host,
      uri: o.uri,
      desired: state === 'running' || state === 'paused' ? 'running' : 'stopped',
      order: { job: d.owner.job, epoch: d.owner.epoch },
      origin: 'recovered',
      ...hardware,
      disks: await Promise.all(hardware.disks.map(withHeader)),
      autostart: false,
      metadata: {},
      state,
      state_reason: d.state.reason,
      state_at: now,
      addresses: [],
      created_at: now,
      updated_at: now,
    })
  }
  await registry.recovered(records)
  return records.map((r) => r.name)
}

/** @returns the entry with what the domain tells, when it is the domain that Ghost Agent made */
export async function adoptGhost(
  r: VmRecord,
  d: SeenDomain,
  s: Session,
  signal: AbortSignal,
): Promise<VmRecord | undefined> {
  const found = hardwareOf(await s.query.domains.xml(d.domain, ['inactive'], { signal }))
  const same = found.disks.find((x) => r.disks.some((y) => y.path === x.path))
  if (!same) return undefined
  const state = vmStateOf(d.state)
  const size = r.disks[0]?.size_bytes ?? 0
  return {
    ...r,
    ...found,
    disks: found.disks.map((x) => (x === same ? { ...x, size_bytes: size } : x)),
    uuid: d.domain.uuid,
    desired: state === 'running' || state === 'paused' ? 'running' : 'stopped',
  }
}

type Node = Record<string, unknown>
type Hardware = Pick<
  VmRecord,
  'vcpus' | 'memory_bytes' | 'disks' | 'nics' | 'seed' | 'firmware' | 'machine' | 'accelerator'
>

const LISTS = new Set(['disk', 'interface', 'feature', 'loader'])
const parser = new XMLParser({
  ignoreAttributes: false,
  attributeNamePrefix: '@',
  parseTagValue: false,
  parseAttributeValue: false,
  htmlEntities: true,
  removeNSPrefix: false,
  isArray: (name) => LISTS.has(name),
})

/** What a definition says of the machine. libvirt writes memory in KiB. */
export function hardwareOf(xml: string): Hardware {
  const domain = child(parser.parse(xml) as Node, 'domain')
  const devices = child(domain, 'devices')
  const os = child(domain, 'os')
  const disks: VmDisk[] = []
  let seed: string | undefined
  for (const d of list(devices, 'disk')) {
    const path = attribute(child(d, 'source'), 'file')
    if (path === undefined) continue
    const target = child(d, 'target')
    if (attribute(d, 'device') === 'cdrom') {
      if (path.endsWith('/seed.iso')) seed = path
      continue
    }
    const format = attribute(child(d, 'driver'), 'type')
    const bus = attribute(target, 'bus')
    const dev = attribute(target, 'dev')
    const file = path.slice(dirname(path).length + 1)
    disks.push({
      id: file.replace(/\.[^.]*$/, ''),
      path: join(path),
      format: format === 'raw' || format === 'vdi' ? format : 'qcow2',
      size_bytes: 0,
      ...(bus ? { bus } : {}),
      ...(dev ? { target: dev } : {}),
    })
  }
  const efi = attribute(os, 'firmware') === 'efi' || list(os, 'loader').some((l) => attribute(l, 'type') === 'pflash')
  return {
    vcpus: Number(text(child(domain, 'vcpu'))) || Number(domain.vcpu) || 1,
    memory_bytes: bytesOf(domain.memory),
    disks,
    nics: list(devices, 'interface').map((n) => {
      const source = child(n, 'source')
      const network = attribute(source, 'network')
      const bridge = attribute(source, 'bridge')
      return {
        mac: attribute(child(n, 'mac'), 'address') ?? '',
        ...(network ? { network } : {}),
        ...(bridge ? { bridge } : {}),
        model: attribute(child(n, 'model'), 'type') ?? 'virtio',
      }
    }),
    ...(seed === undefined ? {} : { seed }),
    firmware: efi ? 'uefi' : 'bios',
    machine: attribute(child(os, 'type'), 'machine')?.includes('q35') === false ? 'pc' : 'q35',
    accelerator: attribute(domain, 'type') === 'kvm' ? 'kvm' : 'qemu',
  }
}

const UNITS: Record<string, number> = {
  b: 1,
  bytes: 1,
  KB: 1000,
  k: 1024,
  KiB: 1024,
  M: 1 << 20,
  MiB: 1 << 20,
  G: 1 << 30,
  GiB: 1 << 30,
}

function bytesOf(memory: unknown): number {
  const n = Number(typeof memory === 'object' ? text(memory as Node) : memory)
  const unit = (typeof memory === 'object' && memory !== null && attribute(memory as Node, 'unit')) || 'KiB'
  return Number.isFinite(n) ? Math.round(n * (UNITS[unit] ?? 1024)) : 0
}

const child = (n: Node, name: string): Node => {
  const c = n[name]
  return typeof c === 'object' && c !== null && !Array.isArray(c) ? (c as Node) : {}
}
const list = (n: Node, name: string): Node[] =>
  (Array.isArray(n[name]) ? (n[name] as unknown[]) : []).filter((x): x is Node => typeof x === 'object' && x !== null)
const text = (n: Node): string | undefined => (typeof n['#text'] === 'string' ? n['#text'] : undefined)
const attribute = (n: Node, name: string): string | undefined => {
  const v = n[`@${name}`]
  return typeof v === 'string' ? v : undefined
}
