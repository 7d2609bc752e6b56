import { join } from 'node:path'
import {
  type Accelerator,
  type Domain,
  type DomainDisk,
  macOf,
  type Managed,
  placeDisks,
  renderDomain,
  usableMac,
} from '../domain/index.ts'
import { type NicSpec, type VmDisk, VmError, type VmOrder, type VmRecord, type VmSpec } from './types.ts'

export { readOwnership } from '../domain/index.ts'

/** Where and for whom a domain is made. */
export interface Owner {
  uuid: string
  instance: string
  /** absolute: `vm.dir` */
  dir: string
  order: VmOrder
  accelerator: Accelerator
  /** whether the disks' filesystem takes O_DIRECT (`takesDirectIo`); default: libvirt's way */
  direct_io?: boolean
  /** paths of bases that no other VM or answer shares (`ownBases`) */
  own_bases?: ReadonlySet<string>
  /** absolute path of the NoCloud image */
  seed?: string
}

/**
 * The XML of a new VM. Buses and targets of the disks are those of {@link placeVmDisks}.
 * @throws {VmError} vm-invalid for a MAC address that no card can have
 */
export function vmDomainXml(o: Owner & { spec: VmSpec; disks: readonly VmDisk[]; nics: VmRecord['nics'] }): string {
  const { spec } = o
  const devices = { row: 'virtio', disk: 'virtio', nic: 'virtio', machine: spec.machine, reason: 'a new VM' } as const
  const disks = placed(o.disks).map(({ disk, place }) => ({ ...place, ...withFiles(disk, o) }))
  return renderDomain({
    uuid: o.uuid,
    name: spec.name,
    vcpus: spec.vcpus,
    memory_bytes: spec.memory_bytes,
    machine: spec.machine,
    firmware: spec.firmware,
    secure_boot: spec.secure_boot,
    family: 'linux',
    devices,
    disks,
    nics: o.nics.map((n) => ({ mac: n.mac, model: n.model, network: networkOf(n), original: {} })),
    job_id: o.order.job,
    managed: managed(spec.name, spec.firmware, o),
  })
}

/**
 * The XML of a VM that a conversion described: the same devices, on the files that are the VM's own. `disks` are found by their ids.
 * @throws TypeError when a disk of the description has no file
 */
export function definedDomainXml(d: Domain, o: Owner & { name: string; disks: readonly VmDisk[] }): string {
  return renderDomain({
    ...d,
    uuid: o.uuid,
    name: o.name,
    job_id: o.order.job,
    disks: d.disks.map((place) => {
      const disk = o.disks.find((x) => x.id === place.id)
      if (!disk) throw new TypeError(`The disk ${place.id} of ${o.name} has no file.`)
      return { ...place, ...withFiles(disk, o) }
    }),
    managed: managed(o.name, d.firmware, o),
  })
}

/** The disks with their buses and the names under which libvirt knows them; the first is the one that boots. */
export function placeVmDisks(disks: readonly VmDisk[]): VmDisk[] {
  return placed(disks).map(({ disk, place }) => ({ ...disk, bus: place.bus, target: place.target }))
}

/**
 * The cards of a new VM, each with an address of its own: the one that is asked for, else one that follows from the VM's uuid and the card's
 * place, so that a VM that is made again has the same.
 * @throws {VmError} vm-invalid for an address that no card can have, or that two have
 */
export function nicsOf(specs: readonly NicSpec[], uuid: string): VmRecord['nics'] {
  const asked = specs.map((n) => {
    if (n.mac === undefined) return undefined
    const mac = usableMac(n.mac)
    if (mac !== undefined) return mac
    throw new VmError(
      `The MAC address ${JSON.stringify(n.mac)} cannot be one card's: it is a group's, all zero, or begins with FE.`,
      {
        code: 'vm-invalid',
        hint: 'Leave it out, and one is chosen that stays the same.',
      },
    )
  })
  const taken = new Set<string>()
  for (const mac of asked) {
    if (mac === undefined) continue
    if (taken.has(mac))
      throw new VmError(`Two network cards have the MAC address ${mac}.`, {
        code: 'vm-invalid',
        hint: 'Leave it out of one of them.',
      })
    taken.add(mac)
  }
  return specs.map((n, i) => {
    const mac = asked[i] ?? macOf(uuid, i, taken)
    taken.add(mac)
    return {
      mac,
      ...(n.bridge === undefined ? { network: n.network ?? 'default' } : { bridge: n.bridge }),
      model: n.model,
    }
  })
}

/** The files that a VM has in its folder beside its disks. */
export function vmFiles(
  dir: string,
  name: string,
): { folder: string; seed: string; serial_log: string; nvram: string } {
  const folder = join(dir, name)
  return {
    folder,
    seed: join(folder, 'seed.iso'),
    serial_log: join(folder, 'serial.log'),
    nvram: join(folder, 'nvram.fd'),
  }
}

function placed(disks: readonly VmDisk[]): { disk: VmDisk; place: DomainDisk }[] {
  const made = disks.map((d, i) => ({
    id: d.id,
    path: d.path,
    format: d.format,
    boot: i === 0,
    boot_order_hint: i,
  }))
  return placeDisks(made, 'virtio').map((place, i) => ({ disk: disks[i]!, place }))
}

function withFiles(d: VmDisk, o: Owner): Pick<DomainDisk, 'path' | 'format' | 'io' | 'backing'> {
  const direct = o.direct_io
  return {
    path: d.path,
    format: d.format,
    ...(direct === undefined ? {} : { io: { direct } }),
    backing: d.base ? [{ ...d.base, ...(o.own_bases?.has(d.base.path) ? { own: true } : {}) }] : [],
  }
}

function managed(name: string, firmware: 'bios' | 'uefi', o: Owner): Managed {
  const files = vmFiles(o.dir, name)
  return {
    instance: o.instance,
    dir: o.dir,
    epoch: o.order.epoch,
    accelerator: o.accelerator,
    ...(o.seed === undefined ? {} : { seed: o.seed }),
    serial_log: files.serial_log,
    ...(firmware === 'uefi' ? { nvram: files.nvram } : {}),
  }
}

function networkOf(n: VmRecord['nics'][number]): string {
  return n.bridge === undefined ? (n.network ?? 'default') : `bridge:${n.bridge}`
}
