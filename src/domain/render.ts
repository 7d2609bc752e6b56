import type { Domain, DomainDisk, DomainNic } from './types.ts'
import { type Element, element as el, printXml } from './xml.ts'

/** Of our element inside `<metadata>`; the number is its version. */
const NAMESPACE = 'urn:vmspool:domain:1'
/** Targets on one virtio-scsi controller, each with one disk: SeaBIOS boots from the first of each, and libvirt's schema has two digits for them. */
const SCSI_PLACES = 64

/**
 * The domain as libvirt reads it (https://libvirt.org/formatdomain.html). What libvirt fills in well by itself (PCI addresses, nvram file,
 * controllers but virtio-scsi) is left to it, so that the file fits hosts with newer and older versions.
 */
export function renderDomain(d: Domain): string {
  const windows = d.family === 'windows'
  const modern = d.machine === 'q35'
  const virtio = d.devices.row === 'virtio'
  const root = el(
    'domain',
    { type: 'kvm' },
    el('name', {}, d.name),
    el('uuid', {}, d.uuid),
    d.title !== undefined && el('title', {}, d.title),
    metadata(d),
    memory(d.memory_bytes),
    el('vcpu', { placement: 'static' }, String(d.vcpus)),
    firmware(d),
    features(d),
    el('cpu', { mode: 'host-model', check: 'partial' }),
    clock(windows, modern),
    el('on_poweroff', {}, 'destroy'),
    el('on_reboot', {}, 'restart'),
    el('on_crash', {}, 'destroy'),
    el('pm', {}, el('suspend-to-mem', { enabled: 'no' }), el('suspend-to-disk', { enabled: 'no' })),
    el(
      'devices',
      {},
      d.disks.map((disk, i) => diskOf(disk, i)),
      scsiControllers(d.disks),
      d.nics.map(nicOf),
      el('serial', { type: 'pty' }, el('target', { type: 'isa-serial', port: 0 })),
      el('console', { type: 'pty' }, el('target', { type: 'serial', port: 0 })),
      // the agent's port does no harm to a guest without its driver, and is there when one is installed
      modern && el('channel', { type: 'unix' }, el('target', { type: 'virtio', name: 'org.qemu.guest_agent.0' })),
      // absolute pointer positions: without them a remote screen's pointer drifts
      el('input', { type: 'tablet', bus: 'usb' }),
      el(
        'graphics',
        { type: 'vnc', port: -1, autoport: 'yes' },
        el('listen', { type: 'address', address: '127.0.0.1' }),
      ),
      el('video', {}, el('model', { type: 'vga' })),
      el('memballoon', { model: virtio ? 'virtio' : 'none' }),
      virtio && el('rng', { model: 'virtio' }, el('backend', { model: 'random' }, '/dev/urandom')),
    ),
  )
  return printXml(root)
}

function metadata(d: Domain): Element {
  const { source: s } = d
  return el(
    'metadata',
    {},
    el(
      'vmspool:vm',
      { 'xmlns:vmspool': NAMESPACE },
      el('vmspool:job', { id: d.job_id }),
      el('vmspool:source', { provider: s.provider, vm_id: s.vm_id, vm_name: s.vm_name, datacenter: s.datacenter }),
      d.os !== undefined && el('vmspool:os', {}, d.os),
      el('vmspool:devices', { row: d.devices.row }, d.devices.reason),
      d.disks.map((x) => el('vmspool:disk', { id: x.id, target: x.target })),
      d.nics.map(({ original: o }) =>
        el('vmspool:nic', { name: o.name, mac: o.mac, network: o.network, model: o.model }),
      ),
    ),
  )
}

/** libvirt counts in KiB. */
function memory(bytes: number): Element {
  const kib = Math.ceil(bytes / 1024)
  return kib % 1024 === 0
    ? el('memory', { unit: 'MiB' }, String(kib / 1024))
    : el('memory', { unit: 'KiB' }, String(kib))
}

/** With `firmware='efi'` libvirt picks image and variables by the host's descriptors; which features it must have is said. */
function firmware(d: Domain): Element {
  const type = el('type', { arch: 'x86_64', machine: d.machine }, 'hvm')
  if (d.firmware === 'bios') return el('os', {}, type)
  const on = d.secure_boot ? 'yes' : 'no'
  return el(
    'os',
    { firmware: 'efi' },
    type,
    el(
      'firmware',
      {},
      el('feature', { enabled: on, name: 'enrolled-keys' }),
      el('feature', { enabled: on, name: 'secure-boot' }),
    ),
  )
}

function features(d: Domain): Element {
  const hyperv = d.family === 'windows' && d.machine === 'q35'
  return el(
    'features',
    {},
    el('acpi'),
    el('apic'),
    hyperv &&
      el(
        'hyperv',
        { mode: 'custom' },
        el('relaxed', { state: 'on' }),
        el('vapic', { state: 'on' }),
        el('spinlocks', { state: 'on', retries: 8191 }),
      ),
    d.secure_boot && el('smm', { state: 'on' }),
  )
}

/** Windows keeps local time in the hardware clock. */
function clock(windows: boolean, modern: boolean): Element {
  return el(
    'clock',
    { offset: windows ? 'localtime' : 'utc' },
    el('timer', { name: 'rtc', tickpolicy: 'catchup' }),
    el('timer', { name: 'pit', tickpolicy: 'delay' }),
    el('timer', { name: 'hpet', present: 'no' }),
    windows && modern && el('timer', { name: 'hypervclock', present: 'yes' }),
  )
}

function diskOf(d: DomainDisk, index: number): Element {
  return el(
    'disk',
    { type: 'file', device: 'disk' },
    el('driver', { name: 'qemu', type: d.format, discard: 'unmap' }),
    el('source', { file: d.path }),
    el('target', { dev: d.target, bus: d.bus }),
    el('boot', { order: d.boot_order }),
    d.bus === 'scsi' &&
      el('address', {
        type: 'drive',
        controller: Math.floor(index / SCSI_PLACES),
        bus: 0,
        target: index % SCSI_PLACES,
        unit: 0,
      }),
  )
}

function scsiControllers(disks: readonly DomainDisk[]): Element[] {
  const scsi = disks.filter((d) => d.bus === 'scsi').length
  return Array.from({ length: Math.ceil(scsi / SCSI_PLACES) }, (_, index) =>
    el('controller', { type: 'scsi', index, model: 'virtio-scsi' }),
  )
}

function nicOf(n: DomainNic): Element {
  const bridge = n.network.startsWith('bridge:') ? n.network.slice('bridge:'.length) : undefined
  return el(
    'interface',
    { type: bridge === undefined ? 'network' : 'bridge' },
    n.mac !== undefined && el('mac', { address: n.mac }),
    el('source', bridge === undefined ? { network: n.network } : { bridge }),
    el('model', { type: n.model }),
  )
}
