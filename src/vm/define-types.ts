/** What the define step of a conversion is given, and what it gives. */
import type { Domain } from '../domain/index.ts'
import type { VmDisk, VmRecord, VmResult } from './types.ts'

export interface DefineSpec {
  name: string
  /** what manifest, OVF and guest say of it */
  domain: Domain
  /** finished, and never written again by whoever made them */
  disks: readonly DefineDisk[]
  accelerator: 'auto' | 'kvm' | 'qemu'
  autostart: boolean
  /** start it now */
  start: boolean
  /** may an earlier definition be replaced? undefined: one that a conversion made */
  overwrite?: boolean
  /** disks of its own, which share nothing with those but, where the filesystem can, blocks */
  copy: boolean
  /** an internal snapshot of that name in each qcow2 disk, before the first start */
  snapshot?: string
}

interface DefineDisk {
  id: string
  /** absolute */
  path: string
  format: VmDisk['format']
  /** what the guest sees */
  size_bytes: number
  boot: boolean
}

export interface DefineResult extends VmResult {
  vm: VmRecord
  /** as libvirt was given it */
  xml: string
  domain: Domain
  /** false: it ran already, defined by an earlier attempt of this job */
  defined: boolean
  started: boolean
  disks: { id: string; path: string; how: 'link' | 'clone' | 'copy' | 'there' }[]
  /** disks of the earlier definition */
  kept: string[]
  snapshot?: string
}
