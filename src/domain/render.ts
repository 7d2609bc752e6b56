import { targetName } from './devices.ts'
import { OWNERSHIP } from './ownership.ts'
import type { Accelerator, Domain, DomainDisk, DomainNic, Managed } from './types.ts'
import { type Element, element as el, printXml } from './xml.ts'

/** Targets on one virtio-scsi controller, each with one disk: SeaBIOS boots from the first of each, and libvirt's schema has two digits for them. */
const SCSI_PLACES = 64

/** What a description says that is for nobody's host in particular. */
const ANYWHERE: Accelerator = { type: 'kvm', cpu: 'host-model' }

/**
 * The domain as libvirt reads it (https://libvirt.org/formatdomain.html). What libvirt fills in well by itself (PCI addresses, nvram file,
 * controllers but virtio-scsi) is left to it, so that the file fits hosts with newer and older versions.
 */
export function renderDomain(d: Domain): string {
  const windows = d.family === 'windows'
  const modern = d.machine === 'q35'
  const virtio = d.devices.row === 'virtio'
  const { managed } = d
  const accelerator = managed?.accelerator ?? ANYWHERE
  const root = el(
    'domain',
    { type: accelerator.type },
    el('name', {}, d.name),
    el('uuid', {}, d.uuid),
    d.title !== undefined && el('title', {}, d.title),
    metadata(d),
    memory(d.memory_bytes),
    el('vcpu', { placement: 'static' }, String(d.vcpus)),
    firmware(d),
    features(d, accelerator),
    cpu(accelerator),
    clock(windows, modern && accelerator.type === 'kvm'),
    el('on_poweroff', {}, 'destroy'),
    el('on_reboot', {}, 'restart'),
    el('on_crash', {}, 'destroy'),
    el('pm', {}, el('suspend-to-mem', { enabled: 'no' }), el('suspend-to-disk', { enabled: 'no' })),
    el(
      'devices',
      {},
      d.disks.map((disk, i) => diskOf(disk, i)),
      managed?.seed !== undefined && seedOf(managed.seed, d),
      scsiControllers(d.disks),
      d.nics.map(nicOf),
      el('serial', { type: 'pty' }, logOf(managed), el('target', { type: 'isa-serial', port: 0 })),
      el('console', { type: 'pty' }, logOf(managed), el('target', { type: 'serial', port: 0 })),
      // the agent's port does no harm to a guest without its driver, and is there when one is installed
      (modern || virtio) &&
        el('channel', { type: 'unix' }, el('target', { type: 'virtio', name: 'org.qemu.guest_agent.0' })),
      // absolute pointer positions: without them a remote screen's pointer drifts
      el('input', { type: 'tablet', bus: 'usb' }),
      // a port on loopback is open to every user of the host; a socket is libvirt's and root's
      managed
        ? el('graphics', { type: 'vnc' }, el('listen', { type: 'socket' }))
        : el(
            'graphics',
            { type: 'vnc', port: -1, autoport: 'yes' },
            el('listen', { type: 'address', address: '127.0.0.1' }),
          ),
      el('video', {}, el('model', { type: 'vga' })),
      balloon(virtio, managed !== undefined),
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
      {
        'xmlns:vmspool': OWNERSHIP,
        ...(d.managed && { instance: d.managed.instance, dir: d.managed.dir, name: d.name }),
      },
      el('vmspool:job', { id: d.job_id, epoch: d.managed?.epoch }),
      s && el('vmspool:source', { provider: s.provider, vm_id: s.vm_id, vm_name: s.vm_name, datacenter: s.datacenter }),
      d.os !== undefined && el('vmspool:os', {}, d.os),
      el('vmspool:devices', { row: d.devices.row }, d.devices.reason),
      d.disks.map((x) => el('vmspool:disk', { id: x.id, target: x.target })),
      // of a VM that came from elsewhere
      s &&
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
  const nvram = d.managed?.nvram
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
    // its place by default goes by the domain's name: what another VM of that name left there would be taken for this one's
    nvram !== undefined && el('nvram', {}, nvram),
  )
}

function cpu({ cpu: mode }: Accelerator): Element | undefined {
  if (mode === undefined) return undefined
  return mode === 'host-model' ? el('cpu', { mode, check: 'partial' }) : el('cpu', { mode, check: 'none' })
}

function features(d: Domain, accelerator: Accelerator): Element {
  // they are KVM's doing
  const hyperv = d.family === 'windows' && d.machine === 'q35' && accelerator.type === 'kvm'
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
function clock(windows: boolean, hyperv: boolean): Element {
  return el(
    'clock',
    { offset: windows ? 'localtime' : 'utc' },
    el('timer', { name: 'rtc', tickpolicy: 'catchup' }),
    el('timer', { name: 'pit', tickpolicy: 'delay' }),
    el('timer', { name: 'hpet', present: 'no' }),
    windows && hyperv && el('timer', { name: 'hypervclock', present: 'yes' }),
  )
}

function diskOf(d: DomainDisk, index: number): Element {
  return el(
    'disk',
    { type: 'file', device: 'disk' },
    el('driver', {
      name: 'qemu',
      type: d.format,
      ...(d.io?.direct && { cache: 'none', io: 'native' }),
      discard: 'unmap',
      ...(d.io && { detect_zeroes: 'unmap' }),
    }),
    el('source', { file: d.path }),
    d.backing && chain(d.backing),
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

/**
 * Every file below, to the last: what is written here is not looked for in the images. libvirt gives a base to the hypervisor's user for good, so it
 * MUST be told not to where others use the same file: other VMs, or whoever made it.
 */
function chain(backing: NonNullable<DomainDisk['backing']>): Element {
  const [next, ...rest] = backing
  if (!next) return el('backingStore')
  return el(
    'backingStore',
    { type: 'file' },
    el('format', { type: next.format }),
    el('source', { file: next.path }, !next.own && el('seclabel', { model: 'dac', relabel: 'no' })),
    chain(rest),
  )
}

/** The NoCloud image, on the last place of the bus that every guest has a driver for. */
function seedOf(path: string, d: Domain): Element {
  const bus = d.machine === 'q35' ? 'sata' : 'ide'
  const prefix = bus === 'sata' ? 'sd' : 'hd'
  const taken = new Set(d.disks.map((x) => x.target))
  let n = 0
  while (taken.has(targetName(prefix, n))) n++
  return el(
    'disk',
    { type: 'file', device: 'cdrom' },
    el('driver', { name: 'qemu', type: 'raw' }),
    el('source', { file: path }),
    el('backingStore'),
    el('target', { dev: targetName(prefix, n), bus }),
    el('readonly'),
  )
}

function logOf(managed: Managed | undefined): Element | undefined {
  return managed?.serial_log === undefined ? undefined : el('log', { file: managed.serial_log, append: 'on' })
}

/** Statistics every so many seconds; what the guest frees is given back to the host. */
const STATS_S = 10

function balloon(virtio: boolean, managed: boolean): Element {
  if (!virtio) return el('memballoon', { model: 'none' })
  if (!managed) return el('memballoon', { model: 'virtio' })
  return el('memballoon', { model: 'virtio', freePageReporting: 'on' }, el('stats', { period: STATS_S }))
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
