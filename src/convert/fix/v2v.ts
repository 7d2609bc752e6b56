/** virt-v2v-in-place: what it is given, and what its log proves that it did. */
import { createReadStream } from 'node:fs'
import { createInterface } from 'node:readline'
import type { FixOptions, FixPlan } from './types.ts'

/**
 * A libvirt domain that names our overlays and nothing else: `-i disk` takes one disk only. Every path is ours, every format stated,
 * so that nothing is probed.
 */
export function sourceDomain(name: string, machine: FixPlan['machine'], overlays: readonly string[]): string {
  const disks = overlays.map(
    (path, i) => `    <disk type="file" device="disk">
      <driver name="qemu" type="qcow2"/>
      <source file="${escapeXml(path)}"/>
      <target dev="sd${letters(i)}" bus="scsi"/>
    </disk>`,
  )
  return `<domain type="kvm">
  <name>${escapeXml(name)}</name>
  <memory unit="KiB">${Math.max(65_536, Math.floor(machine.memory_bytes / 1024))}</memory>
  <vcpu>${Math.max(1, machine.cpus)}</vcpu>
  <os${machine.firmware === 'uefi' ? ' firmware="efi"' : ''}><type arch="${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}">hvm</type></os>
  <features><acpi/><apic/></features>
  <devices>
${disks.join('\n')}
  </devices>
</domain>
`
}

/** 0 → a, 25 → z, 26 → aa: as disks are named. */
function letters(i: number): string {
  return (i >= 26 ? letters(Math.floor(i / 26) - 1) : '') + String.fromCharCode(97 + (i % 26))
}

function escapeXml(text: string): string {
  return text.replace(/[<>&"']/g, (c) => `&#${c.charCodeAt(0)};`)
}

/** What the manifest asks for and virt-v2v has no option for: it does these things always, never, or where it finds a need. */
export function notOffered(o: FixOptions): string[] {
  const out: string[] = []
  if (o.update_grub === false)
    out.push(
      'pipeline.fix.update_grub: false is not offered by virt-v2v: it changes the boot loader where the fixed guest needs it.',
    )
  if (o.regen_initramfs === false)
    out.push(
      'pipeline.fix.regen_initramfs: false is not offered by virt-v2v: it builds the initramfs with the drivers that the guest needs.',
    )
  if (o.fstab_mode === 'stabilize-all' || o.fstab_mode === 'bypath-only')
    out.push(
      `pipeline.fix.fstab_mode: "${o.fstab_mode}" is not offered by virt-v2v: it renames the devices in fstab and boot loader whose names change (sda becomes vda), and leaves UUID=, LABEL= and other stable names as they are.`,
    )
  if (o.fstab_mode === 'noop')
    out.push(
      'pipeline.fix.fstab_mode: "noop" is not offered by virt-v2v: a device name that changes (sda becomes vda) is always renamed, or the guest would not boot.',
    )
  if (o.remove_vmware_tools === false)
    out.push(
      'pipeline.fix.remove_vmware_tools: false is not offered by virt-v2v: it removes the tools of the former hypervisor where it finds them.',
    )
  return out
}

export interface V2vFacts {
  grub_updated: boolean
  initramfs_regenerated: boolean
  vmware_tools_removed: boolean
  fstab_renamed: boolean
  guest?: string
  block_bus?: string
  net_bus?: string
}

/** Reads from the trace of libguestfs calls what was really done; an option that was asked for is no proof. */
export async function factsOf(log: string): Promise<V2vFacts> {
  const facts: V2vFacts = {
    grub_updated: false,
    initramfs_regenerated: false,
    vmware_tools_removed: false,
    fstab_renamed: false,
  }
  const lines = createInterface({ input: createReadStream(log, 'latin1'), crlfDelay: Number.POSITIVE_INFINITY })
  for await (const l of lines) factOf(l.slice(0, 4096), facts)
  return facts
}

function factOf(line: string, f: V2vFacts): void {
  const call = /^libguestfs: trace: \S+ (?:command|command_lines|sh|sh_lines) "(.*)/.exec(line)?.[1]
  if (call !== undefined) {
    if (/\b(?:update-initramfs|dracut|mkinitrd|mkinitramfs|mkinitcpio)\b/.test(call)) f.initramfs_regenerated = true
    if (/\b(?:grub2?-mkconfig|update-grub2?|grubby|grub2?-set-default|Bootloader::Tools.*setDefault)\b/.test(call))
      f.grub_updated = true
    if (
      /(?:vmware-uninstall-tools|vmware-installer|(?:rpm -e|apt-get .*(?:purge|remove)|dpkg .*(?:-r|--purge)|yum -y remove|dnf -y remove).*(?:vmware|open-vm-tools))/.test(
        call,
      )
    )
      f.vmware_tools_removed = true
    return
  }
  const set = /^libguestfs: trace: \S+ aug_set "([^"]*)"/.exec(line)?.[1]
  if (set !== undefined) {
    if (/\/grub|menu\.lst|\/boot\//.test(set)) f.grub_updated = true
    if (/\/fstab/.test(set)) f.fstab_renamed = true
  }
  const bus = /^\s*(?:gcaps_)?(block|net)_bus\s*=\s*([\w-]+)/.exec(line)
  if (bus?.[1] === 'block') f.block_bus = bus[2]!.toLowerCase()
  if (bus?.[1] === 'net') f.net_bus = bus[2]!.toLowerCase()
  const product = /^i_(distro|product_name)\s*=\s*(.+)$/.exec(line)
  if (product)
    f.guest = [f.guest, product[2]!.trim().slice(0, 100)]
      .filter((x) => x !== undefined)
      .join(' ')
      .slice(0, 200)
}
