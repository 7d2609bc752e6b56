import type { Key } from './types.ts'

/*
 * Keys of the systems that vmspool replaces (contracts A5: the EnvironmentFile of the units; A6: the YAML of the Python
 * daemon; B3: Ghost Agent's YAML and its variables), under which a value may still be given. Units differ: what they counted in minutes, days
 * or GiB is converted here.
 */

export type Alias =
  /** The same thing under another name. */
  | { key: Key; unit?: 'minutes' | 'days' | 'seconds to ms' | 'GiB' }
  /** Several settings in one text. */
  | { split: (value: unknown) => { key: Key; value: unknown }[] | string }
  /** Means nothing here; why. `harmless`: values that ask for what happens anyway and are not worth a warning. */
  | { ignored: string; harmless?: readonly unknown[] }

const units: Record<string, Alias> = {
  watch_dir: { key: 'queue' },
  output_dir: { key: 'output' },
  log_level: { key: 'log.level' },
  poll_interval: { key: 'intake.poll_ms', unit: 'seconds to ms' },
  max_concurrent: { key: 'concurrency.jobs' },
  qemu_convert_options: { split: qemuOptions },
  compress_level: { key: 'convert.compress_level' },
  cleanup_source: { key: 'convert.cleanup_source' },
  libvirt_integration: { key: 'libvirt.enabled' },
  libvirt_uri: { key: 'libvirt.uri' },
  libvirt_bridge: { key: 'libvirt.bridge' },
  libvirt_pool: { key: 'libvirt.pool' },
  libvirt_autostart: { key: 'libvirt.autostart' },
  conversion_timeout: { key: 'timeouts.job', unit: 'minutes' },
  temp_dir: { ignored: 'temporary files lie on the filesystem of the output, so that publishing is one rename' },
  verbose_progress: { ignored: 'progress is always in the status files and in the log of each job' },
  notify_email: { key: 'notifications.email_to' },
  webhook_url: { key: 'notifications.webhook_url' },
  retention_days: { key: 'retention.done', unit: 'days' },
  failed_retention_days: { key: 'retention.failed', unit: 'days' },
  instance_name: { ignored: 'the instance is named on the command line: vmspool agent NAME' },
}

const daemon: Record<string, Alias> = {
  command: { ignored: 'the command line says what to run', harmless: ['daemon'] },
  cmd: { ignored: 'the command line says what to run', harmless: ['daemon'] },
  workdir: { ignored: 'temporary files lie on the filesystem of the output, so that publishing is one rename' },
  max_concurrent_jobs: { key: 'concurrency.jobs' },
  file_stable_timeout: { key: 'intake.file_stable_timeout' },
  archive_processed: { key: 'intake.archive_processed' },
  enable_deduplication: {
    ignored: 'every drop is a job of its own; nothing is skipped as a duplicate',
    harmless: [false],
  },
  deduplication_use_md5: {
    ignored: 'every drop is a job of its own; nothing is skipped as a duplicate',
    harmless: [false],
  },
  'retry_policy.enabled': { key: 'retry.enabled' },
  'retry_policy.max_retries': { key: 'retry.max_attempts' },
  'retry_policy.retry_delay': { key: 'retry.delay' },
  'retry_policy.backoff_multiplier': { key: 'retry.factor' },
  out_format: { key: 'convert.format' },
  compress: { key: 'convert.compress' },
  checksum: { key: 'convert.checksum' },
  fstab_mode: { key: 'fix.fstab_mode' },
  regen_initramfs: { key: 'fix.regen_initramfs' },
  update_grub: { key: 'fix.update_grub' },
  emit_domain_xml: { key: 'libvirt.emit_domain_xml' },
  flatten: { ignored: 'every output is one whole image without a backing file', harmless: [true] },
  to_output: { ignored: 'answers are named after source.vm_name or name of the manifest' },
  use_v2v: { ignored: 'how guests are repaired is not configured this way' },
  v2v_parallel: { ignored: 'how guests are repaired is not configured this way' },
  v2v_concurrency: { ignored: 'how guests are repaired is not configured this way' },
  win_virtio: { ignored: 'how guests are repaired is not configured this way' },
  vm_memory: { ignored: 'the manifest says it: vm.mem_gb' },
  vm_vcpus: { ignored: 'the manifest says it: vm.cpu' },
  vm_uefi: { ignored: 'the manifest says it: vm.firmware' },
  log_file: { ignored: 'the agent logs to standard output, where systemd or a redirection takes it' },
  verbose: { ignored: 'use log.level: debug', harmless: [0, false] },
}

const noCore = 'vmspool reports to no central service; jobs come through the queue'
const noGrpc = 'there is no gRPC; work comes through the queue, and who may drop there may submit'
const ownLog = 'the agent logs JSON lines to standard output, where systemd or a redirection takes and rotates them'

/** Ghost Agent's agent.yaml. `libvirt.uri` is called the same here. */
const ghost: Record<string, Alias> = {
  'agent.name': { ignored: 'the instance is named on the command line: vmspool agent NAME' },
  'agent.api_url': { ignored: noCore },
  'agent.heartbeat_interval': { ignored: noCore },
  'agent.version': { ignored: 'the program knows its own version' },
  'libvirt.storage_pool': { key: 'libvirt.pool' },
  'libvirt.network': { key: 'vm.network' },
  'libvirt.image_cache': { key: 'images.dir' },
  'resources.reserved_cpu': { key: 'vm.reserved.vcpus' },
  'resources.reserved_ram_gb': { key: 'vm.reserved.memory', unit: 'GiB' },
  'resources.reserved_disk_gb': { key: 'vm.reserved.disk', unit: 'GiB' },
  'grpc.listen_addr': { ignored: noGrpc },
  'grpc.tls_enabled': { ignored: noGrpc, harmless: [false] },
  'grpc.tls_cert': { ignored: noGrpc },
  'grpc.tls_key': { ignored: noGrpc },
  'grpc.tls_ca': { ignored: noGrpc },
  'logging.level': { key: 'log.level' },
  'logging.output': { ignored: ownLog, harmless: ['stdout'] },
  'logging.file': { ignored: ownLog },
  'logging.format': { ignored: ownLog, harmless: ['json'] },
  'logging.max_size': { ignored: ownLog },
  'logging.max_age': { ignored: ownLog },
  'metrics.enabled': {
    ignored: 'metrics are always on the socket of the agent, and over TCP where metrics.listen says so',
    harmless: [true],
  },
  'metrics.listen_addr': { key: 'metrics.listen' },
  'metrics.path': { ignored: 'metrics are found under /metrics', harmless: ['/metrics'] },
  'health.enabled': { ignored: 'health is always answered on the socket of the agent', harmless: [true] },
  'health.listen_addr': { ignored: 'health is answered at the address of metrics.listen: /health, /ready and /live' },
  'health.path': { ignored: 'health is found under /health', harmless: ['/health'] },
}

/** GHOST_LIBVIRT_NETWORK → libvirt.network; other variables that begin so are not Ghost Agent's settings. */
export const ghostVariables: ReadonlyMap<string, string> = new Map(
  [...Object.keys(ghost), 'libvirt.uri'].map((path) => [`GHOST_${path.replaceAll('.', '_').toUpperCase()}`, path]),
)

/** By their path in lower case. The names of the units are written in capitals there and may be here. */
export const aliases: ReadonlyMap<string, Alias> = new Map(Object.entries({ ...units, ...daemon, ...ghost }))

/** Those of the EnvironmentFile. */
export const environmentNames: ReadonlySet<string> = new Set(Object.keys(units))

export const aliasNames: readonly string[] = [...aliases.keys()].map((n) =>
  environmentNames.has(n) ? n.toUpperCase() : n,
)

/** `"-O qcow2 -c -p"`: the parts of qemu-img convert's options that are settings here. Returns what is wrong as text. */
function qemuOptions(value: unknown): { key: Key; value: unknown }[] | string {
  if (typeof value !== 'string') return 'must be a text such as "-O qcow2 -c"'
  const found: { key: Key; value: unknown }[] = []
  const words = value.trim().split(/\s+/).filter(Boolean)
  let compressed = false
  for (let i = 0; i < words.length; i++) {
    const word = words[i]!
    if (word === '-p' || word === '-W') continue
    if (word === '-c') compressed = true
    else if (word === '-O' && words[i + 1]) found.push({ key: 'convert.format', value: words[++i] })
    else if (word === '-m' && words[i + 1]) found.push({ key: 'convert.qemu_threads', value: Number(words[++i]) })
    else if (word === '-o' && /^compression_type=/.test(words[i + 1] ?? ''))
      found.push({ key: 'convert.compression_type', value: words[++i]!.slice('compression_type='.length) })
    else
      return `contains ${JSON.stringify(word)}; only -O FORMAT, -c, -m N, -o compression_type=TYPE, -p and -W have a meaning here`
  }
  found.push({ key: 'convert.compress', value: compressed ? 'yes' : 'no' })
  return found
}
