import type { Ovf } from '../images/index.ts'
import type { Guest } from './guest.ts'
import type { DeviceChoice, DiskBus, DomainDisk, GuestFacts, MadeDisk } from './types.ts'

/**
 * The table of docs/output.md: which devices a guest surely has drivers for. A guest without the driver of its boot disk does not boot
 * at all, while one on SATA is only slower; so virtio is for those that are known to have it.
 */
export function chooseDevices(guest: Guest, facts: GuestFacts, ovf: Ovf | undefined, uefi: boolean): DeviceChoice {
  const aged = guest.age === 'old' || guest.age === 'oldest'
  // PCI Express and virtio 1.0 are younger than these guests; OVMF and secure boot want q35
  const machine = aged && !uefi ? 'pc' : 'q35'
  const before = ovf?.disks[0]?.controller
  if (facts.block_bus !== undefined) return asFixed(guest, facts, machine)
  if (before?.bus === 'virtio' || /virtio/i.test(before?.model ?? ''))
    return { row: 'virtio', disk: 'virtio', nic: 'virtio', machine, reason: 'the guest ran on virtio before' }
  if (guest.family === 'linux' && guest.age === 'modern')
    return {
      row: 'virtio',
      disk: 'virtio',
      nic: 'virtio',
      machine: 'q35',
      reason: `${guest.label} has virtio in its kernel`,
    }
  if (aged) {
    const nic = guest.age === 'oldest' ? 'rtl8139' : 'e1000'
    const reason = `${guest.label} is too old to be sure of virtio or AHCI`
    return machine === 'pc'
      ? { row: 'ide', disk: 'ide', nic, machine, reason }
      : { row: 'sata', disk: 'sata', nic, machine, reason: `${reason}, and UEFI has no IDE on q35` }
  }
  if (guest.family === 'unknown' && before?.bus === 'ide' && !uefi)
    return {
      row: 'ide',
      disk: 'ide',
      nic: 'e1000',
      machine: 'pc',
      reason: 'the system is unknown and ran from IDE before',
    }
  return {
    row: 'sata',
    disk: 'sata',
    nic: 'e1000e',
    machine: 'q35',
    reason:
      guest.family === 'windows'
        ? `${guest.label} has no virtio drivers of its own`
        : `${guest.label} is not known to have virtio drivers`,
  }
}

/** virt-v2v knows what it put into the guest. */
function asFixed(guest: Guest, facts: GuestFacts, machine: 'q35' | 'pc'): DeviceChoice {
  const nic = (['virtio', 'e1000e', 'e1000', 'rtl8139'] as const).find((n) => facts.net_bus?.startsWith(n))
  const reason = `the fix step made ${guest.label} ready for ${facts.block_bus}`
  if (facts.block_bus?.startsWith('virtio')) {
    const disk = facts.block_bus === 'virtio-scsi' ? 'scsi' : 'virtio'
    return { row: 'virtio', disk, nic: nic ?? 'virtio', machine, reason }
  }
  const old = nic ?? (guest.age === 'oldest' ? 'rtl8139' : guest.age === 'old' ? 'e1000' : 'e1000e')
  return machine === 'pc'
    ? { row: 'ide', disk: 'ide', nic: old, machine, reason }
    : { row: 'sata', disk: 'sata', nic: old, machine, reason }
}

/** A PCI slot each is too much beyond this; then they share a virtio-scsi controller. */
const MOST_VIRTIO_BLK = 20
/** Two channels with two places each; further disks go to SATA. */
const MOST_IDE = 4

/**
 * Buses, targets and boot order. Targets follow the order at the source, since a guest may know its disks as first and second; what boots
 * first is said apart from that: the boot disk, then by hint.
 */
export function placeDisks(disks: readonly MadeDisk[], bus: DiskBus): DomainDisk[] {
  const used = new Map<string, number>()
  const booting = [...disks].sort(
    (a, b) =>
      Number(b.boot) - Number(a.boot) || a.boot_order_hint - b.boot_order_hint || disks.indexOf(a) - disks.indexOf(b),
  )
  return disks.map((d, i) => {
    const own: DiskBus =
      bus === 'ide' && i >= MOST_IDE ? 'sata' : bus === 'virtio' && disks.length > MOST_VIRTIO_BLK ? 'scsi' : bus
    const prefix = ({ virtio: 'vd', scsi: 'sd', sata: 'sd', ide: 'hd' } as const)[own]
    const n = used.get(prefix) ?? 0
    used.set(prefix, n + 1)
    return { ...d, bus: own, target: targetName(prefix, n), boot_order: booting.indexOf(d) + 1 }
  })
}

/** `vd`, 0 → vda */
export const targetName = (prefix: 'vd' | 'sd' | 'hd', n: number): string => prefix + letters(n)

/** 0 → a, 25 → z, 26 → aa. */
function letters(n: number): string {
  const last = String.fromCharCode(97 + (n % 26))
  return n < 26 ? last : letters(Math.floor(n / 26) - 1) + last
}
