/** What is to be done to a guest, and what was done. Plain data: the plan comes from manifest and configuration, the report goes into the job's. */

/** How the tools of libguestfs are found and run. */
export interface GuestToolSettings {
  /** a program, else the places where distributions put it */
  virt_v2v_in_place?: string
  /** kernel and modules of the appliance (SUPERMIN_KERNEL, SUPERMIN_MODULES); default: what supermin finds in /boot */
  kernel?: string
  modules?: string
  /** folder of an appliance made by libguestfs-make-fixed-appliance */
  appliance?: string
  accelerator: 'auto' | 'kvm' | 'tcg'
  /** where the appliance is built (some 400 MB) and sockets lie; on a local disk, and short */
  tmp_dir?: string
}

/** pipeline.fix of the manifest, as asked for; absent fields were not asked for. */
export interface FixOptions {
  backup?: boolean
  print_fstab?: boolean
  update_grub?: boolean
  regen_initramfs?: boolean
  fstab_mode?: 'stabilize-all' | 'bypath-only' | 'noop'
  remove_vmware_tools?: boolean
}

export interface GuestUser {
  name: string
  uid?: number
  groups: readonly string[]
  ssh_keys: readonly string[]
  /** one sudoers rule without the user's name */
  sudo?: string
}

/** `configuration` of the manifest, every value checked: see src/manifest/kinds/configuration.ts. */
export interface GuestConfiguration {
  users: { create: readonly GuestUser[]; disable: readonly string[] }
  services: { enable: readonly string[]; disable: readonly string[]; mask: readonly string[] }
  hostname?: { name: string; domain?: string }
  /** lines of /etc/hosts: address and names */
  hosts: readonly { address: string; names: readonly string[] }[]
  files: readonly { path: string; content: string; mode: string }[]
}

export interface FixPlan {
  /** hash of everything below that decides what the fixed guest looks like */
  key: string
  /** run virt-v2v; absent: only the configuration is applied */
  options?: FixOptions
  configuration?: GuestConfiguration
  /** when it cannot be done here (no tools, no kernel for them, no guest on the disks): go on and warn, or fail */
  unavailable: 'skip' | 'fail'
  /** what virt-v2v is told about the machine */
  machine: { firmware: 'bios' | 'uefi'; memory_bytes: number; cpus: number }
}

/** What was found out or done; stages.fix.result of the report (contracts A3) and fields of ours. */
export interface FixReport {
  boot_disk_id: string | null
  /** disks of the guest that were given to the tools and not changed by them */
  data_disks_skipped: number
  fstab_mode: string
  grub_updated: boolean
  initramfs_regenerated: boolean
  vmware_tools_removed: boolean
  /** programs that ran and their versions */
  tools: string[]
  guest?: string
  /** bus that the fixed guest has drivers for, as virt-v2v says: virtio-blk, virtio-scsi, ide */
  block_bus?: string
  net_bus?: string
  fstab?: { before: string; after: string }
  configured: string[]
  /** options that the installed tools do not offer, a sentence each */
  not_offered: string[]
  /** what the tools warned of */
  warnings: string[]
  backup: string
  changed: { disk_id: string; overlay_bytes: number }[]
  adopted: boolean
}

/** stages.inspect.result.disks[].guest of the report, and fields of ours. */
export interface GuestInfo {
  type: string
  distro: string
  product_name: string
  major_version: number
  minor_version: number
  arch?: string
  hostname?: string
  package_format?: string
  osinfo?: string
  mountpoints?: { device: string; path: string }[]
}
