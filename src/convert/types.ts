import type { SourceFormat, Submitter } from '../images/index.ts'
import type { ProcessIdentity } from '../process/index.ts'
import type { Domain, VmWords } from '../domain/index.ts'
import type { FixPlan, FixReport, GuestInfo, GuestToolSettings } from './fix/types.ts'
import type { OutputFormat } from './formats.ts'

export type { OutputFormat } from './formats.ts'

/** One entry of the manifest's `disks`; an OVA or OVF may turn into several. */
export interface PlannedDisk {
  /** `[a-zA-Z0-9_-]+` */
  id: string
  source_format: SourceFormat | 'ova' | 'ovf'
  /** absolute */
  path: string
  /** the manifest's word for the file's size in bytes; 0 or absent: not stated */
  bytes?: number
  /** `sha256:<hex>` of the file */
  checksum?: string
  boot_order_hint?: number
  label?: string
  disk_type?: string
}

/** A step whose artefacts are recorded. */
export type Step = 'unpack' | 'copy' | 'guest-info' | 'fix' | 'merge' | 'define'

/** An attempt that came before this one. */
export interface Earlier {
  dir: string
  /** nobody writes there any more: what lies there may be moved, else only be copied */
  dead: boolean
  /** take over what was made before this step only (`vmspool retry --from`) */
  before?: Step
  /** of another job, which this one repeats */
  other?: true
}

/** What is to be made of which files. Paths are absolute; sizes bytes, times milliseconds. */
export interface ConvertPlan {
  /** the answer's name, a safe path component */
  name: string
  disks: PlannedDisk[]
  /** index into `disks` */
  boot: number
  output: {
    format: OutputFormat
    compress: boolean
    compression_type: 'zlib' | 'zstd'
    /** also write `<name>.qcow2` when the format is another one */
    poll_name: boolean
    /** put the SHA-256 of each output into its {@link Artifact} */
    checksum: boolean
  }
  /** how to copy; a path that was asked for and cannot be used is an error, `auto` takes the fastest that can */
  path: 'auto' | CopyPath
  /** re-encode compressed clusters, for readers that know only qemu's window of 4 KiB */
  strict: boolean
  validate: {
    /** structure is used only where `structure_allowed` or a checksum of the same bytes is verified */
    grains: 'full' | 'structure'
    structure_allowed: boolean
    compare: 'none' | 'sample' | 'full'
  }
  /** threads that inflate or check grains; 0: none, the caller's own, which blocks */
  workers: number
  /** finished files are moved here at the end */
  dir: string
  /** ours alone, on the same filesystem as `dir`; copies and artefact records lie here */
  scratch: string
  /** folders of earlier attempts, the latest first; `dead`: nobody writes there any more */
  earlier: readonly Earlier[]
  import_roots: readonly string[]
  /** files below this folder were taken from the submitter, so only the file's own permissions count */
  payload_dir?: string
  submitter?: Submitter
  max_virtual_size: number
  reserve_bytes: number
  threads: number
  /** 0 turns the watchdog off */
  no_progress_timeout_ms: number
  verify_checksum: boolean
  dry_run: boolean
  /** what is known of the VM beside its disks; absent: nothing */
  vm?: VmWords
  /** makes the finished disks a VM; absent: that is not wanted */
  define?: DefineVm
  /** what is to be done inside the guest; absent: nothing */
  fix?: FixPlan
  /** look which system the disks hold (virt-inspector) */
  guest_info?: boolean
  guest_tools?: GuestToolSettings
  /** files put here are kept with the job, whatever becomes of it; absent: only the job's log is kept */
  logs_dir?: string
}

/**
 * The define step. The rooms of conversions and of VMs do not know each other, so whoever has both supplies it. It comes after everything
 * else; when it throws, the disks are put back to where a later attempt finds them, so it MUST NOT leave a VM running on them then. `refused`: there is
 * no VM, and the conversion is a success all the same.
 */
export type DefineVm = (made: MadeVm) => Promise<DefineReport | { refused: string }>

/** What was made: the finished disks under their names, and the VM over them. */
export interface MadeVm {
  /** with the disks where the answer will have them */
  domain: Domain
  disks: readonly {
    id: string
    /** absolute, where it lies now */
    path: string
    format: OutputFormat
    /** what the guest sees */
    size_bytes: number
    boot: boolean
  }[]
}

/** What became of it. */
export interface DefineReport {
  name: string
  uuid: string
  /** libvirt's connection */
  uri: string
  /** false: it was defined so by an earlier attempt of this job */
  defined: boolean
  started: boolean
  running: boolean
  autostart: boolean
  type: 'kvm' | 'qemu'
  /** absolute */
  disks: { disk_id: string; path: string; how: 'link' | 'clone' | 'copy' | 'there' }[]
  /** disks of an earlier definition that were left where they are */
  kept: string[]
  snapshot?: string
  /** parts of the step */
  phases: { name: string; duration_ms: number }[]
  warnings: string[]
  /** the definition as libvirt was given it */
  xml: string
  /** as it is now */
  domain: Domain
}

interface ConvertProgress {
  phase: string
  bytes_done?: number
  bytes_total?: number
  message?: string
}

/** How a conversion talks to whoever runs it. */
export interface ConvertHooks {
  /** aborting ends all children and throws the signal's reason */
  signal: AbortSignal
  progress(p: ConvertProgress): void
  log(stream: 'stdout' | 'stderr' | 'agent', text: string): void
  /** MUST be told of each child group before it can do harm */
  spawned(id: ProcessIdentity): void
}

export interface StageWarning {
  stage: string
  message: string
  timestamp: string
}

export interface StageReport {
  name: string
  success: boolean
  duration_ms: number
  result?: Record<string, unknown>
  error?: string
}

/**
 * How one disk is copied. zero-copy: the compressed grains of a streamOptimized VMDK become compressed clusters as they are. inflate:
 * they are inflated by worker threads. qemu-img: everything else.
 */
export type CopyPath = 'zero-copy' | 'inflate' | 'qemu-img'

/** What became of that choice. */
export interface CopyHow {
  path: CopyPath
  /** completes "by …, because" */
  reason: string
  /** zero-copy: how grains were checked */
  grains?: 'full' | 'structure'
  /** zero-copy: whether the data is shared with the source (FICLONE) or was copied */
  transfer?: 'clone' | 'copy'
}

export interface DiskReport {
  id: string
  /** the manifest's disk it came from */
  from: string
  source: string
  source_format: SourceFormat
  subformat?: string
  virtual_size_bytes: number
  /** size of the source file, and what the manifest stated */
  actual_bytes: number
  expected_bytes?: number
  checksum_verified: boolean
  path: CopyPath
  path_reason: string
  /** how the grains of a zero copy were checked */
  grains?: 'full' | 'structure'
  /** what zero-copy did: cloned (FICLONE) or copied bytes */
  transfer?: 'clone' | 'copy'
  /** true: an earlier attempt had made it */
  adopted: boolean
  boot: boolean
  boot_order_hint: number
  estimate_bytes: number
  copy_ms?: number
}

export interface Artifact {
  /** relative to the plan's `dir` */
  path: string
  disk_id: string
  format: OutputFormat
  size_bytes: number
  allocated_bytes: number
  compressed: boolean
  /** of the file, hexadecimal; when asked for */
  sha256?: string
  boot: boolean
  boot_order_hint: number
  /** what `<name>.qcow2` is when another format was asked for */
  note?: string
}

/** What `<name>.xml` says. */
export interface DomainReport {
  /** relative to the plan's `dir` */
  path: string
  size_bytes: number
  name: string
  uuid: string
  vcpus: number
  memory_bytes: number
  firmware: 'bios' | 'uefi'
  secure_boot: boolean
  machine: 'q35' | 'pc'
  /** the line of the table in docs/output.md */
  devices: 'virtio' | 'sata' | 'ide'
  devices_reason: string
  disks: { disk_id: string; path: string; target: string; bus: string; boot_order: number }[]
  nics: { mac: string | null; model: string; network: string; source_network: string | null }[]
  /** what neither manifest nor OVF said */
  assumed: string[]
}

export interface ConvertReport {
  dry_run: boolean
  stages: StageReport[]
  disks: DiskReport[]
  artifacts: Artifact[]
  warnings: StageWarning[]
  /** what was done inside the guest */
  fix?: FixReport
  guest?: GuestInfo
  guest_error?: string
  domain?: DomainReport
  /** what the define step did */
  define?: Omit<DefineReport, 'xml' | 'domain' | 'warnings'>
  /** why there is no VM, where that is no failure */
  not_defined?: string
  /** dry run: what the copy would need */
  estimate: { bytes: number; time_ms: number; free_bytes: number }
}
