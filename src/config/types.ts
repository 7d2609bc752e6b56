/**
 * The effective configuration of one instance: every key has its value, durations are milliseconds, sizes bytes,
 * paths absolute. A key's path here is its path in the YAML file and, in capitals with `_` for the dots, its
 * environment variable: `lease.timeout`, `VMSPOOL_LEASE_TIMEOUT`.
 */
export interface Config {
  /** Not a setting: which instance this is. */
  instance: string
  /** The folder of all spools; an instance is the tree `<root>/<instance>`. */
  root: string
  /** The drop box, when it lies elsewhere than `<root>/<instance>/queue` (same filesystem). */
  queue?: string
  /** What clients read, when it lies elsewhere than `<root>/<instance>/output`. */
  output?: string
  /** Where this instance's sockets lie: short, local, private to the host. */
  runtime_dir: string

  log: { level: 'debug' | 'info' | 'warn' | 'error' }
  host: {
    /** what jobs may ask for beside the host's name */
    labels: readonly string[]
  }
  concurrency: {
    /** Sum of the weights of all jobs at once. */
    weight: number
    /** Jobs at once; 0: only the weight counts. */
    jobs: number
    /** Jobs of a group at once, by the group's name; 1 for a group that is not named here. */
    groups: Readonly<Record<string, number>>
  }
  /** The logs of jobs. */
  logs: {
    /** A log file is rotated when it is larger than this, in bytes. */
    max_bytes: number
    /** … or when its first line is older than this, in ms; 0: never by age. */
    max_age: number
    /** All files of one job's log together, in bytes: the oldest are removed beyond it. */
    total_bytes: number
  }
  history: {
    /** The index of jobs, on a local disk; undefined: below the cache folder of the host or the user (it can be rebuilt). */
    path?: string
  }
  intake: {
    /** Milliseconds between two listings of the queue. */
    poll_ms: number
    bare_disks: 'on' | 'off'
    file_stable_timeout: number
    import_roots: readonly string[]
    max_manifest_bytes: number
    yaml_quiet: number
    incomplete_after: number
    raw_keep: number
    archive_processed: boolean
    /** Most drops taken in one round. */
    batch: number
  }
  lease: { timeout: number }
  retry: {
    enabled: boolean
    max_attempts: number
    delay: number
    factor: number
  }
  max_crashes: number
  convert: {
    format: 'qcow2' | 'raw' | 'vdi'
    compress: 'auto' | 'yes' | 'no'
    compress_level: number
    compression_type: 'zlib' | 'zstd'
    path: 'auto' | 'zero-copy' | 'inflate' | 'qemu-img'
    strict: boolean
    workers: number
    grains: 'full' | 'structure'
    compare: 'none' | 'sample' | 'full'
    output_checksum: boolean
    max_virtual_size: number
    qemu_threads: number
    /** 0: no watchdog. */
    no_progress_timeout: number
    checksum: boolean
    cleanup_source: boolean
  }
  space: { reserve_bytes: number; check_interval: number }
  /** 0: kept for ever. */
  retention: { done: number; failed: number; superseded: number }
  on_in_use: 'reject' | 'supersede'
  poll_name: 'on' | 'off'
  drain: { timeout: number }
  timeouts: {
    /** The `timeout` of jobs that ask for none; 0: none. */
    job: number
    kill_grace: number
  }
  stats: { interval: number }
  metrics: {
    /** `host:port` for Prometheus and health checks over TCP; without it only the Unix socket. */
    listen?: string
  }
  health: { stalled_after: number }
  /** Prefixes of paths in manifests → where they lie on this host. */
  path_map: Readonly<Record<string, string>>
  libvirt: {
    enabled: boolean
    uri: string
    bridge: string
    /** Networks at the source → libvirt networks, or `bridge:NAME`. */
    networks: Readonly<Record<string, string>>
    pool: string
    autostart: boolean
    emit_domain_xml: boolean
  }
  vm: {
    /** Disks, seeds and the registry of the VMs; undefined: `<output>/vms`. */
    dir?: string
    network: string
    accelerator: 'auto' | 'kvm' | 'qemu'
    /** ms */
    address_timeout: number
    /** ms between asking a guest to stop and pulling the plug */
    stop_grace: number
    limits: {
      vcpus: number
      /** bytes */
      min_memory: number
      memory: number
      min_disk: number
      disk: number
    }
    /** virtual processors for each real one */
    cpu_overcommit: number
    reserved: { vcpus: number /** bytes */; memory: number; disk: number }
  }
  images: {
    /** undefined: `<vm.dir>/.images` */
    dir?: string
    /** bytes; 0: no limit */
    max_bytes: number
    /** ms since an image was last used; 0: for ever */
    max_age: number
  }
  /** Images by the names under which manifests ask for them. */
  templates: Readonly<Record<string, Template>>
  fix: {
    fstab_mode: 'stabilize-all' | 'bypath-only' | 'noop'
    regen_initramfs: boolean
    update_grub: boolean
    unavailable: 'skip' | 'fail'
    accelerator: 'auto' | 'kvm' | 'tcg'
    kernel?: string
    modules?: string
    appliance?: string
    virt_v2v_in_place?: string
    tmp_dir?: string
  }
  notifications: {
    enabled: boolean
    on_success: boolean
    on_failure: boolean
    on_stalled: boolean
    webhook_url?: string
    webhook_type: 'generic' | 'slack' | 'discord'
    email_enabled: boolean
    email_smtp_host?: string
    email_smtp_port: number
    email_from?: string
    email_to?: string
    email_username?: string
    email_password?: string
  }
}

/** Where an image comes from: one of `url` and `path`. */
export interface Template {
  url?: string
  path?: string
  /** `sha256:<hex>` or `sha512:<hex>` of the file */
  checksum?: string
  format?: 'qcow2' | 'raw'
}

type Join<A extends string, B extends string> = `${A}.${B}`
/** Leaves of the configuration as dotted paths. Maps and lists are leaves. */
export type Key = Exclude<Leaves<Config>, 'instance'>
type Leaves<T> = {
  [K in keyof T & string]-?: NonNullable<T[K]> extends readonly unknown[]
    ? K
    : string extends keyof NonNullable<T[K]>
      ? K
      : NonNullable<T[K]> extends object
        ? Join<K, Leaves<NonNullable<T[K]>>>
        : K
}[keyof T & string]
export type ValueOf<K extends string, T = Config> = K extends `${infer A}.${infer B}`
  ? A extends keyof T
    ? ValueOf<B, NonNullable<T[A]>>
    : never
  : K extends keyof T
    ? T[K]
    : never
