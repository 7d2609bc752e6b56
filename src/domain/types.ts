/** What a disk of a domain is. */
export type DiskFormat = 'qcow2' | 'raw' | 'vdi'

/** What the manifest and the configuration say of the VM; what is absent was not said. Sizes in bytes. */
export interface VmWords {
  /** whether `<name>.xml` is wanted */
  write_xml: boolean
  job_id: string
  /** absolute: the folder in which the answer's files will be found under their names */
  output_dir: string
  name?: string
  vcpus?: number
  memory_bytes?: number
  firmware?: 'bios' | 'uefi'
  secure_boot?: boolean
  /** `linux`, `windows`, `unknown` */
  os_hint?: string
  os_version?: string
  nics?: readonly { id?: string | undefined; mac?: string | undefined; network?: string | undefined }[]
  source: { provider?: string; vm_id?: string; vm_name?: string; datacenter?: string }
  networks: NetworkChoice
}

/** A libvirt network by its name, or `bridge:NAME` for a bridge of the host. */
export interface NetworkChoice {
  /** by the name that the network had at the source */
  by_name: Readonly<Record<string, string>>
  otherwise: string
}

/** What is known of the guest after inspection and fixing. */
export interface GuestFacts {
  /** what virt-inspector found */
  info?: { type: string; distro: string; product_name: string; major_version: number; minor_version: number }
  /** what virt-v2v made the guest ready for, as it says it: virtio-blk, virtio-scsi, ide; virtio-net, e1000, rtl8139 */
  block_bus?: string
  net_bus?: string
}

/** One finished disk, in the order in which the source attached them. */
export interface MadeDisk {
  id: string
  /** absolute, where it will be found */
  path: string
  format: DiskFormat
  boot: boolean
  boot_order_hint: number
}

export type DiskBus = 'virtio' | 'scsi' | 'sata' | 'ide'

export interface DomainDisk extends MadeDisk {
  bus: DiskBus
  /** name for libvirt: `vda`, `sdb`, `hdc` */
  target: string
  /** 1 first */
  boot_order: number
  /** how the hypervisor opens the file; absent: as libvirt sees fit */
  io?: DiskIo
  /** what the file lies on top of, the next one first. []: nothing. Absent: libvirt looks for itself, by what the image says */
  backing?: readonly Backing[]
}

export interface Backing {
  path: string
  format: DiskFormat
  /** nobody but this VM uses it, under whatever name */
  own?: boolean
}

/** What works on the filesystem of a disk. */
export interface DiskIo {
  /** past the host's cache (O_DIRECT) */
  direct: boolean
}

export interface DomainNic {
  mac?: string
  model: string
  /** libvirt's network or `bridge:NAME` */
  network: string
  /** what it was at the source */
  original: { mac?: string; network?: string; model?: string; name?: string }
}

/** Everything that `<name>.xml` says. */
export interface Domain {
  uuid: string
  name: string
  title?: string
  vcpus: number
  memory_bytes: number
  machine: 'q35' | 'pc'
  firmware: 'bios' | 'uefi'
  secure_boot: boolean
  family: GuestFamily
  /** which line of the table in docs/output.md was taken, and why */
  devices: DeviceChoice
  disks: DomainDisk[]
  nics: DomainNic[]
  job_id: string
  /** of a VM that came from elsewhere */
  source?: VmWords['source']
  os?: string
  /** of a VM that vmspool manages; absent: the description is for whoever reads it */
  managed?: Managed
}

/** What says that a domain is ours, and what only a VM on this host can have. */
export interface Managed {
  instance: string
  /** absolute: where the VMs of that instance lie (`vm.dir`) */
  dir: string
  /** of the job's attempt */
  epoch: number
  accelerator: Accelerator
  /** absolute path of the NoCloud image */
  seed?: string
  /** absolute paths, in the VM's folder */
  serial_log?: string
  nvram?: string
}

/** `cpu` is one that libvirt offers for this type; absent: what the hypervisor takes by itself */
export interface Accelerator {
  type: 'kvm' | 'qemu'
  cpu?: 'host-passthrough' | 'host-model' | 'maximum'
}

export type GuestFamily = 'linux' | 'windows' | 'other' | 'unknown'

export interface DeviceChoice {
  row: 'virtio' | 'sata' | 'ide'
  disk: DiskBus
  nic: 'virtio' | 'e1000e' | 'e1000' | 'rtl8139'
  machine: 'q35' | 'pc'
  reason: string
}
