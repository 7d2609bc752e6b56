/** Source: DMTF DSP0243 (OVF 1.1, 2.x), and what vSphere, VirtualBox and oVirt write beyond it. */
export interface OvfDisk {
  disk_id: string
  /** as written; MUST be checked before it is used as a file name */
  href: string
  /** bytes */
  capacity?: number
  /** as written: gzip, bzip2, identity */
  compression?: string
  /** bytes of each part, when the file is cut into `<href>.000000000`, `<href>.000000001`, … */
  chunk_size?: number
  /** what the OVF says the file is; counts where the name tells nothing */
  format?: 'vmdk' | 'qcow2' | 'raw' | 'vhd' | 'vhdx' | 'vdi'
  /** `index` counts the controllers of one bus from 0 */
  controller?: OvfController
  /** place on the controller */
  unit?: number
  /** the lowest boots; only oVirt and some of vSphere's writers state it */
  boot_order?: number
}

export interface OvfNic {
  name?: string
  /** lower case with colons */
  mac?: string
  network?: string
  /** as written: E1000, VmxNet3, PCNet32, virtio */
  model?: string
}

/** What a conversion and a VM's description need of an OVF envelope. */
export interface Ovf {
  name?: string
  disks: OvfDisk[]
  /** ids of disks that the OVF declares without a file: they are empty */
  empty_disks?: string[]
  vcpus?: number
  memory_bytes?: number
  firmware?: 'bios' | 'uefi'
  secure_boot?: boolean
  nics: OvfNic[]
  /** `id` is the CIM number, `type` e.g. debian12_64Guest (vSphere) or Debian_64 (VirtualBox) */
  os?: { id?: number; type?: string; version?: string; description?: string }
}

/** Where a disk is plugged in. */
export interface OvfController {
  bus: 'ide' | 'scsi' | 'sata' | 'nvme' | 'usb' | 'virtio'
  /** as written: lsilogic, VirtualSCSI, AHCI, … */
  model?: string
  /** counts the controllers of this bus from 0 */
  index: number
}
