/**
 * Ghost Agent's `vms.json` (contracts: B2): one object keyed by the VM's id, which is its name, with the names of Go's fields as keys. It
 * knows no uuids and never noted a start or a stop, so what it says of a VM's state is only what it was when the VM was made: the domain that
 * libvirt has decides, once it is found (registry-recover.ts).
 */
import { existsSync } from 'node:fs'
import { isAbsolute, join } from 'node:path'
import { uuidOfVm } from '../domain/index.ts'
import { safeName } from '../manifest/safe-name.ts'
import type { VmRecord } from './types.ts'

/** An entry that is none, and why, as the end of a sentence. */
export interface BadEntry {
  name: string
  why: string
}

/** Where Ghost Agent put its disks: as it was documented, and as it was done. */
const OLD_FOLDERS = ['/var/lib/ghost/disks', '/var/lib/ghost/images/disks']
const GIB = 1024 ** 3

/** @returns undefined when this is not Ghost Agent's file */
export function upgradeGhost(
  raw: unknown,
  o: { instance: string; host: string },
): { vms: Map<string, VmRecord>; bad: BadEntry[] } | undefined {
  if (typeof raw !== 'object' || raw === null || Array.isArray(raw) || 'schema' in raw) return undefined
  const entries = Object.entries(raw)
  const theirs = (v: unknown): v is Record<string, unknown> =>
    typeof v === 'object' && v !== null && ['ID', 'Name', 'DiskPath', 'RAMGB'].some((k) => k in v)
  if (!entries.some(([, v]) => theirs(v))) return undefined
  const vms = new Map<string, VmRecord>()
  const bad: BadEntry[] = []
  for (const [id, v] of entries) {
    if (!theirs(v)) bad.push({ name: id, why: 'it is no VM of Ghost Agent' })
    else if (!safeName(id)) bad.push({ name: id, why: 'its name cannot be that of a folder' })
    else vms.set(id, recordOf(id, v, o))
  }
  return { vms, bad }
}

function recordOf(name: string, v: Record<string, unknown>, o: { instance: string; host: string }): VmRecord {
  const number = (key: string): number => {
    const n = v[key]
    return typeof n === 'number' && Number.isFinite(n) && n > 0 ? n : 0
  }
  const text = (key: string): string | undefined => (typeof v[key] === 'string' && v[key] !== '' ? v[key] : undefined)
  const now = new Date().toISOString()
  const time = (key: string): string => {
    const t = Date.parse(text(key) ?? '')
    // Go's zero time is in the year 1
    return Number.isNaN(t) || t <= 0 ? now : new Date(t).toISOString()
  }
  const ip = text('IP')
  const template = text('Template')
  return {
    uuid: uuidOfVm(o.instance, name),
    name,
    host: o.host,
    uri: 'qemu:///system',
    desired: 'stopped',
    order: { job: '', epoch: 0 },
    origin: 'ghost',
    vcpus: Math.round(number('VCPU')),
    memory_bytes: Math.round(number('RAMGB') * GIB),
    disks: [
      {
        id: 'disk',
        path: diskOf(name, text('DiskPath')),
        format: 'qcow2',
        size_bytes: Math.round(number('DiskGB') * GIB),
      },
    ],
    nics: [],
    firmware: 'bios',
    machine: 'q35',
    accelerator: 'qemu',
    autostart: false,
    ...(template ? { template } : {}),
    metadata: {},
    state: 'unknown',
    state_reason: `taken over from Ghost Agent, which last called it ${text('Status') ?? 'nothing'}`,
    state_at: time('UpdatedAt'),
    addresses: ip ? [ip] : [],
    created_at: time('CreatedAt'),
    updated_at: time('UpdatedAt'),
  }
}

/** What it says, unless there is nothing and a disk lies where Ghost Agent would have put it. */
function diskOf(name: string, said: string | undefined): string {
  const places = OLD_FOLDERS.map((f) => join(f, `${name}.qcow2`))
  const all = said !== undefined && isAbsolute(said) ? [said, ...places] : places
  return all.find((p) => existsSync(p)) ?? all[0]!
}
