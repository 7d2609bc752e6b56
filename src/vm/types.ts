/**
 * The terms of the VM service. A VM is a libvirt domain that vmspool manages: its uuid comes from the instance and the name, its
 * disks lie in a folder of its own, an entry in `vms.json` says what it should be. Sizes are bytes, times RFC 3339 or milliseconds.
 */
import type { Submitter } from '../images/index.ts'
import type { ProcessIdentity } from '../process/index.ts'

export type VmAction = 'create' | 'start' | 'stop' | 'restart' | 'delete' | 'define'

/**
 * For whom something is done. A job that is carried out again has a higher epoch: whatever an earlier attempt still does is refused once the
 * registry or the domain's metadata names the later one.
 */
export interface VmOrder {
  job: string
  epoch: number
}

/** How an action talks to whoever runs it. */
export interface VmHooks {
  /** aborting ends children and waits, and throws the signal's reason */
  signal: AbortSignal
  /** `message` also says what is waited for */
  progress(p: { phase: VmPhase; message?: string; bytes_done?: number; bytes_total?: number; percent?: number }): void
  /** it only waits for libvirt, or (undefined) goes on */
  waiting?(why: string | undefined): void
  log(stream: 'stdout' | 'stderr' | 'agent', text: string): void
  /** MUST be told of each child group before it can do harm */
  spawned(id: ProcessIdentity): void
  /** false once the job was taken from whoever runs the action: it must not change anything any more */
  owned?(): Promise<boolean>
}

/** In this order; an action leaves out what it does not need. */
export type VmPhase =
  | 'admit'
  | 'image'
  | 'disks'
  | 'seed'
  | 'define'
  | 'start'
  | 'address'
  | 'stop'
  | 'undefine'
  | 'remove'
  | 'roll-back'

export interface CloudInit {
  user?: string
  ssh_keys?: readonly string[]
  password_hash?: string
  hostname: string
  packages?: readonly string[]
  run?: readonly (string | readonly string[])[]
  network?: {
    address?: string
    gateway?: string
    nameservers?: readonly string[]
    config?: Record<string, unknown>
  }
  /** instead of user, keys, packages and run */
  user_data?: string
  meta_data?: Record<string, unknown>
}

export interface NicSpec {
  network?: string
  bridge?: string
  mac?: string
  model: 'virtio' | 'e1000e' | 'e1000' | 'rtl8139'
}

/** A file that somebody named: opened by the guard with the submitter's rights, never by its path. */
export interface NamedFile {
  path: string
  format?: 'qcow2' | 'raw'
  submitter?: Submitter
  import_roots: readonly string[]
}

/** What a new VM is to be, with every default filled in. */
export interface VmSpec {
  name: string
  boot:
    | { from: 'template'; template: string }
    | { from: 'image'; file: NamedFile }
    /** disks that a job made and published: ours, never written again */
    | { from: 'job'; job: string; disks: readonly { id: string; path: string; format: 'qcow2' | 'raw' }[] }
  copy: 'overlay' | 'full'
  /** of the boot disk; absent: as large as the image */
  disk_bytes?: number
  disks: readonly { size_bytes?: number; file?: NamedFile; format: 'qcow2' | 'raw' }[]
  vcpus: number
  memory_bytes: number
  firmware: 'bios' | 'uefi'
  secure_boot: boolean
  machine: 'q35' | 'pc'
  accelerator: 'auto' | 'kvm' | 'qemu'
  nics: readonly NicSpec[]
  cloud_init?: CloudInit
  autostart: boolean
  start: boolean
  /** 0: do not wait */
  address_timeout_ms: number
  metadata: Readonly<Record<string, string>>
}

/** What is seen of a domain. `missing`: libvirt has none; `unknown`: libvirt cannot be asked. */
export type VmState = 'running' | 'stopped' | 'paused' | 'error' | 'missing' | 'unknown'

/** One disk file of a VM. */
export interface VmDisk {
  id: string
  /** absolute */
  path: string
  format: 'qcow2' | 'raw' | 'vdi'
  /** what the guest sees */
  size_bytes: number
  /** what the file lies on top of, in the same folder */
  base?: { path: string; format: 'qcow2' | 'raw' }
  bus?: string
  target?: string
}

/** One entry of `vms.json`. Fields are only ever added. */
export interface VmRecord {
  uuid: string
  name: string
  host: string
  /** libvirt's connection that it lives on */
  uri: string
  /** what it should be; set when an action begins, and by what the guest does itself */
  desired: 'running' | 'stopped' | 'deleted'
  /** an action that has begun and is not over; after a crash it comes before everything else */
  doing?: {
    action: VmAction
    phase: VmPhase
    job: string
    epoch: number
    since: string
    /** what it should be if the action fails */
    was?: VmRecord['desired']
    /** what DHCP had given to its cards before it was started */
    leases?: readonly { mac: string; address: string; expires_s: number | null }[]
  }
  /** the latest that changed it */
  order: VmOrder
  /** the last action that is over */
  last?: { action: VmAction; job: string; epoch: number; outcome: 'done' | 'failed'; at: string; message?: string }
  /** SHA-256 of what `create` was asked for: the same again means this VM */
  asked?: string
  /** made by `kind: vm`, by the define step of a conversion, taken over from Ghost Agent, or found in libvirt after the registry was lost */
  origin: 'vm' | 'convert' | 'ghost' | 'recovered'
  vcpus: number
  memory_bytes: number
  disks: VmDisk[]
  nics: { mac: string; network?: string; bridge?: string; model: string }[]
  seed?: string
  firmware: 'bios' | 'uefi'
  machine: 'q35' | 'pc'
  accelerator: 'kvm' | 'qemu'
  autostart: boolean
  template?: string
  /** the job whose result it runs on */
  from_job?: string
  metadata: Record<string, string>
  /** as seen last */
  state: VmState
  state_reason?: string
  /** since when */
  state_at: string
  /** which boot of the host it was seen running in last (/proc/sys/kernel/random/boot_id) */
  boot_id?: string
  /** how often it was started again because it should run, since it last stayed up, and when last */
  starts?: { count: number; at: string }
  addresses: string[]
  created_at: string
  updated_at: string
}

/** What an action achieved. */
export interface VmResult {
  summary: string
  vm: VmRecord | undefined
  warnings: string[]
  /** nothing had to be done */
  unchanged?: boolean
  phases: { name: VmPhase; duration_ms: number }[]
}

/** A failure of the VM service that has a name. */
export class VmError extends Error {
  readonly code: VmErrorCode
  /** may another attempt help? */
  readonly transient: boolean
  readonly hint: string | undefined
  phase: VmPhase | undefined

  constructor(
    message: string,
    o: { code: VmErrorCode; transient?: boolean; hint?: string; phase?: VmPhase; cause?: unknown },
  ) {
    super(message, o.cause === undefined ? undefined : { cause: o.cause })
    this.name = 'VmError'
    this.code = o.code
    this.transient = o.transient ?? false
    this.hint = o.hint
    this.phase = o.phase
  }
}

export type VmErrorCode =
  /** the manifest asks for what cannot be, or more than `vm.limits` */
  | 'vm-invalid'
  | 'vm-not-found'
  /** a domain of that name or uuid is not ours, or the VM is another one than wanted */
  | 'vm-conflict'
  /** it runs, and what is wanted needs it stopped */
  | 'vm-running'
  /** more than the host has */
  | 'vm-resources'
  /** a later attempt or job has taken over */
  | 'vm-superseded'
  | 'image-not-found'
  | 'image-download'
  | 'image-checksum'
  | 'image-invalid'
  | 'network-not-found'
  /** libvirt refused */
  | 'hypervisor'
  /** libvirt cannot be reached */
  | 'hypervisor-down'
  | 'guest-start'
  | 'guest-stop'
  | 'storage'
  | 'registry'
