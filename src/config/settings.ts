import { availableParallelism } from 'node:os'
import {
  bool,
  choice,
  countMap,
  duration,
  fraction,
  labelList,
  listen,
  milliseconds,
  onOff,
  path,
  pathList,
  pathMap,
  size,
  text,
  url,
  whole,
  wholeOrAuto,
} from './readers.ts'
import { guestSettings } from './settings-guests.ts'
import { second, minute, day, years, live, noteLater, type Setting, set } from './setting.ts'
import type { Key, ValueOf } from './types.ts'

/**
 * Every key there is: how it is read, its default, what it means. Schema, template, environment and `vmspool config`
 * follow from this table; its type keeps it complete against `Config`.
 */
export const settings: { [K in Key]: Setting<ValueOf<K>> } = {
  root: set(path, undefined, 'The folder of all spools. Default: /var/lib/vmspool, for users $XDG_DATA_HOME/vmspool.'),
  queue: set<string>(
    path,
    undefined,
    'The drop box. Default: <root>/<instance>/queue. Must lie on the same filesystem as the rest.',
  ),
  output: set<string>(path, undefined, 'What clients read. Default: <root>/<instance>/output.'),
  runtime_dir: set(
    path,
    undefined,
    'Where the sockets of this instance lie. Default: /run/vmspool/<instance>, for users below $XDG_RUNTIME_DIR.',
  ),

  'log.level': set(
    choice(['debug', 'info', 'warn', 'error'], { warning: 'warn' }),
    'info',
    'How much is logged.',
    live,
  ),

  'host.labels': set(
    labelList,
    [],
    'What this host has, such as [gpu, fast-disk]: a job whose `hosts` names one of them runs here.',
    live,
  ),

  'concurrency.weight': set(
    wholeOrAuto(1, 10_000, () => Math.max(2, availableParallelism())),
    'auto',
    'Sum of the weights of jobs that run at once; auto: the number of processors, at least 2.',
    live,
  ),
  'concurrency.jobs': set(whole(0, 10_000), 0, 'Most jobs at once; 0: only the weight limits them.', live),

  'concurrency.groups': set(
    countMap,
    {},
    'How many jobs of a group run at once, such as { backup: 1, build: 4 }; a group that is not named here: 1.',
    live,
  ),

  'logs.max_bytes': set(size(4096, 2 ** 40), '16M', "A job's log is rotated when its file is larger.", live),
  'logs.max_age': set(duration(0, years), '0', '… or when its first line is older; 0: only by size.', live),
  'logs.total_bytes': set(
    size(8192, 2 ** 44),
    '256M',
    "All files of one job's log together, the rotated ones compressed; the oldest are removed beyond it.",
    live,
  ),
  'history.path': set<string>(
    path,
    undefined,
    'The index of finished jobs. Must lie on a local disk. Default: vmspool/history.db below /var/cache, for users below $XDG_CACHE_HOME.',
  ),

  'intake.poll_ms': set(
    milliseconds(10, 3600 * second),
    1000,
    'Milliseconds between two listings of the queue. A watcher only makes it faster.',
    live,
  ),
  'intake.bare_disks': set(
    onOff,
    'on',
    'Disks and OVAs dropped without a manifest become convert jobs. Turn it off where exports are written in place.',
    live,
  ),
  'intake.file_stable_timeout': set(duration(0, day), '30s', 'A bare disk must be unchanged for this long.', live),
  'intake.import_roots': set(pathList, ['/'], 'Disks named in manifests must lie below one of these.', live),
  'intake.max_manifest_bytes': set(size(64, 2 ** 20), '1M', 'A larger manifest is rejected unread.', live),
  'intake.yaml_quiet': set(
    duration(0, minute * 60),
    '1s',
    'A YAML manifest must be unchanged for this long: half of one can be valid.',
    live,
  ),
  'intake.incomplete_after': set(
    duration(0, minute * 60),
    '5s',
    'A JSON manifest that ends too early is rejected after this long without change.',
    live,
  ),
  'intake.raw_keep': set(
    duration(0, minute * 60),
    '3s',
    'An accepted drop is watched this long for a writer that goes on writing.',
    live,
  ),
  'intake.archive_processed': set(
    bool,
    true,
    'Move a bare disk to queue/.processed/<date>/ after success, to queue/.errors/ after failure.',
    live,
  ),
  'intake.batch': set(whole(1, 100_000), 256, 'Most drops taken in one round.', live),

  'lease.timeout': set(
    duration(100, 3600 * second),
    '30s',
    'An agent that shows no life for this long is dead to the others. Must be the same for all agents of a spool.',
  ),

  'retry.enabled': set(bool, true, 'Try a failed job again when the failure may pass.', live),
  'retry.max_attempts': set(whole(0, 1000), 3, 'How often a failed job is tried again.', live),
  'retry.delay': set(duration(0, 30 * day), '300s', 'Wait before the first retry.', live),
  'retry.factor': set(fraction(1, 100), 2, 'Each further wait is this many times longer.', live),
  max_crashes: set(whole(0, 10_000), 10, 'A job under which this many agents died is given up.', live),

  'convert.format': set(
    choice(['qcow2', 'raw', 'vdi']),
    'qcow2',
    'Format of disks when the manifest names none.',
    live,
  ),
  'convert.compress': set(
    choice(['auto', 'yes', 'no'], { true: 'yes', on: 'yes', '1': 'yes', false: 'no', off: 'no', '0': 'no' }),
    'auto',
    'Compress disks when the manifest does not say; auto: not for a disk that a VM will run on.',
    live,
  ),
  'convert.compress_level': set(whole(0, 9), 6, 'Level for zlib, where a level can be chosen.', live),
  'convert.compression_type': set(
    choice(['zlib', 'zstd']),
    'zstd',
    'What compressed qcow2 disks use; zlib is read by older QEMU too.',
    live,
  ),
  'convert.path': set(
    choice(['auto', 'zero-copy', 'inflate', 'qemu-img']),
    'auto',
    'How disks are copied when the manifest does not say; auto takes the fastest that can be used.',
    live,
  ),
  'convert.strict': set(
    bool,
    false,
    'Re-encode compressed clusters, for readers that know only the 4 KiB window of qemu.',
    live,
  ),
  'convert.workers': set(
    wholeOrAuto(1, 64, () => Math.min(16, availableParallelism())),
    'auto',
    'Threads of one conversion that inflate or check grains; auto: the processors that the agent may use, at most 16.',
    live,
  ),
  'convert.grains': set(
    choice(['full', 'structure']),
    'full',
    'Check of compressed grains that are not re-encoded: full inflates them; structure, which a manifest may then ask for too, looks at their markers only.',
    live,
  ),
  'convert.compare': set(
    choice(['none', 'sample', 'full']),
    'none',
    'Compare finished images with their sources when the manifest does not say.',
    live,
  ),
  'convert.output_checksum': set(bool, false, 'Put the SHA-256 of each output into the result.', live),
  'convert.max_virtual_size': set(
    size(2 ** 20, 2 ** 53 - 1),
    '64T',
    'A disk that claims to be larger is refused.',
    live,
  ),
  'convert.qemu_threads': set(
    wholeOrAuto(1, 16, () => Math.min(16, 4 * availableParallelism())),
    'auto',
    'Parallel requests of qemu-img; auto: four for each processor, at most 16.',
    live,
  ),
  'convert.no_progress_timeout': set(
    duration(0, 7 * day),
    '15m',
    'A conversion that makes no progress for this long is ended; 0: never.',
    live,
  ),
  'convert.checksum': set(bool, true, 'Verify checksums that a manifest gives.', live),
  'convert.cleanup_source': set(bool, false, 'Delete the source disks after a verified success.', {
    later: 'deleting sources',
  }),

  'space.reserve_bytes': set(
    size(0, 2 ** 53 - 1),
    '512M',
    'Free space that conversions must leave on the filesystem of the output.',
    live,
  ),
  'space.check_interval': set(
    duration(100, minute * 60),
    '5s',
    'How often free space is looked at while a job writes.',
    live,
  ),

  'retention.done': set(
    duration(0, years),
    '7d',
    'Records and logs of jobs that succeeded are kept this long; 0: for ever.',
    live,
  ),
  'retention.failed': set(duration(0, years), '3d', 'The same for jobs that failed, were cancelled or rejected.', live),
  'retention.superseded': set(
    duration(0, years),
    '7d',
    'The same for answers that a later job of the same name replaced.',
    live,
  ),

  on_in_use: set(
    choice(['reject', 'supersede']),
    'reject',
    'A new job whose answer would replace a disk in use: reject it, or move the old disk aside.',
    live,
  ),
  poll_name: set(
    onOff,
    'on',
    'Also write <name>.qcow2 when another format is wanted: old clients wait for that name.',
    live,
  ),
  'drain.timeout': set(
    duration(0, 7 * day),
    '30s',
    'On TERM, running jobs may take this long to end before they are given back.',
    live,
  ),
  'timeouts.job': set(
    duration(0, 365 * day),
    0,
    'Time limit of jobs that set none; 0: only standing still ends a job.',
    live,
  ),
  'timeouts.kill_grace': set(
    duration(0, 3600 * second),
    '10s',
    'Between TERM and KILL for a child that has to end.',
    live,
  ),
  'stats.interval': set(duration(100, day), '60s', 'How often stats.json is written.', live),
  'metrics.listen': set<string>(
    listen,
    undefined,
    'Also serve /metrics, /health, /ready and /live on this address, such as "127.0.0.1:9464".',
  ),
  'health.stalled_after': set(
    duration(0, 365 * day),
    '60m',
    'Work waits and nothing moves for this long: /health says so; 0: never.',
    live,
  ),
  path_map: set(
    pathMap,
    {},
    'Path prefixes in manifests → where they lie on this host: {"/mnt/export": "/srv/nfs/export"}.',
    live,
  ),

  ...guestSettings,

  'notifications.enabled': set(bool, false, 'Tell somebody how jobs end.', noteLater),
  'notifications.on_success': set(bool, false, 'When a job succeeds.', noteLater),
  'notifications.on_failure': set(bool, true, 'When a job fails for good.', noteLater),
  'notifications.on_stalled': set(bool, true, 'When nothing moves.', noteLater),
  'notifications.webhook_url': set<string>(url, undefined, 'Where to post.', noteLater),
  'notifications.webhook_type': set(choice(['generic', 'slack', 'discord']), 'generic', 'In which form.', noteLater),
  'notifications.email_enabled': set(bool, false, 'Send mail.', noteLater),
  'notifications.email_smtp_host': set<string>(text, undefined, 'Through this server.', noteLater),
  'notifications.email_smtp_port': set(whole(1, 65_535), 587, 'Its port.', noteLater),
  'notifications.email_from': set<string>(text, undefined, 'Sender.', noteLater),
  'notifications.email_to': set<string>(text, undefined, 'Recipient.', noteLater),
  'notifications.email_username': set<string>(text, undefined, 'Login.', noteLater),
  'notifications.email_password': set<string>(text, undefined, 'Password.', noteLater),
}

export const keys = Object.keys(settings) as readonly Key[]

/** Keys whose values are not printed. */
export const secret: ReadonlySet<Key> = new Set<Key>(['notifications.email_password'])

/** What HUP may change in a running agent; the rest needs a restart. */
export const reloadable: readonly Key[] = keys.filter((k) => settings[k].reload)
