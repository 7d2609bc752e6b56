import { dirname, isAbsolute, join, resolve } from 'node:path'
import type { ConvertPlan } from '../convert/index.ts'
import { submitterOf } from '../images/index.ts'
import { bootDiskIndex, type ConvertManifest } from '../manifest/index.ts'
import { type ConvertSettings, settingsOf } from './convert-settings.ts'
import { definePlan, wantsDefine } from './convert-define.ts'
import { guestPlan } from './convert-fix.ts'
import { vmWords } from './convert-vm.ts'
import { COMMAND_LINE, type JobContext, JobError } from './types.ts'

/** Notes on what the manifest asks for and will not get; `warnings` go into the result, `notes` into the log. */
export interface PlanNotes {
  warnings: { stage: string; message: string }[]
  notes: string[]
}

/** Turns manifest, configuration and drop into a plan. @throws {JobError} bad-path */
export async function planConversion(
  m: ConvertManifest,
  c: JobContext<ConvertManifest>,
): Promise<{ plan: ConvertPlan } & PlanNotes> {
  const s = settingsOf(c.config)
  const said: PlanNotes = { warnings: notVerified(m, c), notes: [] }
  const format = m.output?.format ?? s.format
  const boot = bootDiskIndex(m)
  if (m.output?.directory !== undefined || m.output?.filename !== undefined) {
    said.notes.push(
      `output.directory and output.filename are not used: results are published under the name "${c.answer}" in the output folder of the spool.`,
    )
  }
  if (m.pipeline?.convert?.compress_level !== undefined && m.pipeline.convert.compress_level > 0) {
    said.notes.push('pipeline.convert.compress_level is not used: qemu-img has no levels for qcow2.')
  }
  const compress = wantsCompression(m, { ...s, define: wantsDefine(m, c) }, format, said)
  const plan: ConvertPlan = {
    name: c.answer,
    disks: m.disks.map((d) => ({
      id: d.id,
      source_format: d.source_format,
      path: sourcePath(d.local_path, c),
      ...(d.bytes === undefined ? {} : { bytes: d.bytes }),
      ...(d.checksum === undefined ? {} : { checksum: d.checksum }),
      ...(d.boot_order_hint === undefined ? {} : { boot_order_hint: d.boot_order_hint }),
      ...(d.label === undefined ? {} : { label: d.label }),
      ...(d.disk_type === undefined ? {} : { disk_type: d.disk_type }),
    })),
    boot,
    output: {
      format,
      compress,
      compression_type: m.convert?.compression_type ?? s.compression_type,
      poll_name: s.poll_name,
      checksum: m.output?.checksum ?? s.output_checksum,
    },
    path: m.convert?.path ?? s.path,
    strict: m.convert?.strict ?? s.strict,
    validate: {
      grains: m.validate?.grains ?? s.grains,
      structure_allowed: s.grains === 'structure',
      compare: m.validate?.compare ?? s.compare,
    },
    workers: s.workers,
    dir: c.answerDir,
    scratch: c.attemptDir,
    earlier: earlierOf(c),
    import_roots: s.import_roots,
    ...(c.payloadDir === undefined ? {} : { payload_dir: resolve(c.payloadDir) }),
    submitter: await submitterOf(c.drop.uid, c.drop.gid),
    max_virtual_size: s.max_virtual_size,
    reserve_bytes: s.reserve_bytes,
    threads: s.threads,
    no_progress_timeout_ms: s.no_progress_timeout_ms,
    verify_checksum: s.verify_checksum,
    dry_run: m.options?.dry_run === true,
    vm: vmWords(m, c),
    ...guestPlan(m, c.config),
    ...definePlan(m, c, said.warnings),
    ...(c.logsDir === undefined ? {} : { logs_dir: c.logsDir }),
  }
  return { plan, ...said }
}

/**
 * `compress` of the manifest, else its pipeline's, else the configuration's. hyperexport writes `true` whatever it was asked for, so beside a
 * libvirt definition it counts as auto: a compressed image is a slow disk for a running VM.
 */
function wantsCompression(
  m: ConvertManifest,
  s: ConvertSettings & { define: boolean },
  format: string,
  said: PlanNotes,
): boolean {
  const piped = m.pipeline?.convert?.compress
  let want: unknown = m.compress ?? piped ?? s.compress
  if (m.compress === undefined && piped === true && s.define) {
    said.notes.push(
      'pipeline.convert.compress is taken as "auto", which means plain, because the job also defines the VM: a compressed image is a slow disk. "compress": true asks for it all the same.',
    )
    want = 'auto'
  }
  // compressed clusters are all that a zero copy makes
  if (want === 'auto' && (m.convert?.path ?? s.path) === 'zero-copy' && format === 'qcow2') want = 'yes'
  const compress = want === true || want === 'yes'
  if (compress && format !== 'qcow2') {
    said.notes.push(`compress is not used: the format ${format} has no compression.`)
    return false
  }
  return compress
}

/** An archive brings sums of its own, and says so itself when it does not; a disk that was dropped or named by hand has nobody to state one. */
function notVerified(m: ConvertManifest, c: JobContext<ConvertManifest>): PlanNotes['warnings'] {
  if (c.payloadDir !== undefined || c.drop.file === COMMAND_LINE) return []
  return m.disks
    .filter((d) => d.checksum === undefined && d.source_format !== 'ova' && d.source_format !== 'ovf')
    .map((d) => ({
      stage: 'load_manifest',
      message: `The manifest states no checksum for disk "${d.id}", so damage on its way here cannot be noticed.`,
    }))
}

/** Attempts of this job, the latest first, then what a failed job that this one repeats has kept. */
function earlierOf(c: Pick<JobContext, 'earlierAttempts'>): ConvertPlan['earlier'] {
  return [...c.earlierAttempts]
    .sort((a, b) => Number(a.kept !== undefined) - Number(b.kept !== undefined) || b.epoch - a.epoch)
    .map(({ dir, dead, kept }) => ({
      dir,
      dead,
      ...(kept?.before === undefined ? {} : { before: kept.before }),
      ...(kept === undefined ? {} : { other: true as const }),
    }))
}

/**
 * Where a `local_path` lies on this host: the configuration's `path_map` replaces prefixes of another host's tree; a relative path is
 * meant from where the manifest was dropped, or from the payload that came with it.
 */
function sourcePath(path: string, c: Pick<JobContext, 'payloadDir' | 'drop' | 'config'>): string {
  if (isAbsolute(path)) return mapped(path, c.config.path_map ?? {})
  const queue =
    c.config.queue ?? (c.config.root && c.config.instance ? join(c.config.root, c.config.instance, 'queue') : undefined)
  const base = c.payloadDir ?? (isAbsolute(c.drop.file) ? dirname(c.drop.file) : queue)
  if (base === undefined) {
    throw new JobError(`The local_path ${JSON.stringify(path)} is relative, and it is not known from where.`, {
      code: 'bad-path',
      transient: false,
      hint: 'Give an absolute path.',
    })
  }
  return resolve(base, path)
}

/** The longest prefix wins; a prefix ends at a slash. */
export function mapped(path: string, map: Readonly<Record<string, string>>): string {
  const prefixes = Object.keys(map).sort((a, b) => b.length - a.length)
  for (const p of prefixes) {
    const prefix = p.replace(/\/+$/, '')
    if (path === prefix || path.startsWith(`${prefix}/`)) return map[p]!.replace(/\/+$/, '') + path.slice(prefix.length)
  }
  return path
}
