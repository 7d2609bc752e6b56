import type { ConvertReport } from '../convert/index.ts'
import type { ConvertManifest } from '../manifest/index.ts'
import { human, seconds } from './report-units.ts'

export interface ReportStage {
  success: boolean
  /** seconds */
  duration: number
  result?: Record<string, unknown>
  error?: string
}

export interface StageInput {
  manifest: ConvertManifest
  manifestPath: string
  report: ConvertReport
  /** folder of the finished answer */
  dir: string
  compare: 'none' | 'sample' | 'full'
}

/** The report's stages and which of our steps they stand for; a stage of which no step ran is left out. */
const STAGES = {
  inspect: ['inspect', 'guest-info'],
  fix: ['fix', 'merge'],
  convert: ['copy', 'describe', 'collect'],
  validate: ['validate'],
  libvirt_integration: ['define'],
} as const

/** `pipeline.stages` (contracts A3). Durations are the sums of a stage's steps. */
export function reportStages(o: StageInput): Record<string, ReportStage> {
  const out: Record<string, ReportStage> = { load_manifest: { success: true, duration: 0, result: loaded(o) } }
  const results = {
    inspect: inspected,
    fix: fixed,
    convert: converted,
    validate: validated,
    libvirt_integration: defined,
  }
  for (const [name, steps] of Object.entries(STAGES) as [keyof typeof STAGES, readonly string[]][]) {
    const ran = o.report.stages.filter((s) => steps.includes(s.name))
    if (ran.length === 0) continue
    const bad = ran.find((s) => !s.success)
    out[name] = {
      success: bad === undefined,
      duration: seconds(ran.reduce((n, s) => n + s.duration_ms, 0)),
      ...(bad ? { error: bad.error ?? 'The stage did not end.' } : { result: results[name](o) }),
    }
  }
  return out
}

function loaded({ manifest: m, manifestPath, report: r }: StageInput): Record<string, unknown> {
  return {
    manifest_version: m.manifest_version,
    manifest_path: manifestPath,
    source_provider: m.source?.provider ?? null,
    source_vm_id: m.source?.vm_id ?? null,
    source_vm_name: m.source?.vm_name ?? null,
    disks_count: m.disks.length,
    firmware: m.vm?.firmware ?? 'bios',
    os_hint: m.vm?.os_hint ?? 'unknown',
    checksums_verified: r.disks.length > 0 && r.disks.every((d) => d.checksum_verified),
  }
}

function inspected({ manifest: m, report: r }: StageInput): Record<string, unknown> {
  return {
    disks: r.disks.map((d) => ({
      id: d.id,
      source_format: m.disks.find((x) => x.id === d.from)?.source_format ?? d.source_format,
      expected_bytes: d.expected_bytes ?? 0,
      actual_bytes: d.actual_bytes,
      size_match: d.expected_bytes === undefined || d.expected_bytes === d.actual_bytes,
      size_human: human(d.actual_bytes),
      path: d.source,
      virtual_size_bytes: d.virtual_size_bytes,
      // the disks of one guest are inspected together: what was found stands where it boots
      ...(d.boot && r.guest ? { guest: r.guest } : {}),
      ...(d.boot && r.guest_error !== undefined ? { guest_inspection_error: r.guest_error } : {}),
    })),
  }
}

/** A fix that could not be done here and was not required to is a success with a warning; its result says so. */
function fixed({ report: r }: StageInput): Record<string, unknown> {
  return r.fix ? { ...r.fix } : { skipped: true, boot_disk_id: r.disks.find((d) => d.boot)?.id ?? null }
}

function converted({ report: r, dir }: StageInput): Record<string, unknown> {
  return {
    disks_converted: r.disks.length,
    output_format: r.artifacts.find((a) => a.note === undefined)?.format ?? null,
    output_directory: dir,
    compressed: r.artifacts.some((a) => a.compressed),
    converted_disks: r.artifacts.map((a) => {
      const disk = r.disks.find((d) => d.id === a.disk_id)
      return {
        disk_id: a.disk_id,
        input_format: disk?.source_format ?? null,
        output_format: a.format,
        output_path: a.path,
        output_size_bytes: a.size_bytes,
        output_size_human: human(a.size_bytes),
        boot_order_hint: a.boot_order_hint,
        ...(disk && a.note === undefined
          ? { path: disk.path, path_reason: disk.path_reason, copy_ms: disk.copy_ms ?? 0, adopted: disk.adopted }
          : {}),
      }
    }),
    ...(r.domain ? { domain_xml: r.domain.path } : {}),
  }
}

/** `domain_name` is hyper2kvm's word. */
function defined({ report: r }: StageInput): Record<string, unknown> {
  return r.define ? { domain_name: r.define.name, ...r.define } : {}
}

function validated({ report: r, compare }: StageInput): Record<string, unknown> {
  return {
    disks_validated: r.artifacts.length,
    all_passed: true,
    validation_results: r.artifacts.map((a) => {
      const disk = r.disks.find((d) => d.id === a.disk_id)
      return {
        disk_id: a.disk_id,
        path: a.path,
        passed: true,
        check: a.format === 'raw' ? 'none (raw has no structure)' : 'qemu-img check',
        // a pointer to the image beside it was not copied from the source
        compare: a.note === undefined ? compare : 'none',
        ...(disk?.grains && a.note === undefined ? { grains: disk.grains } : {}),
      }
    }),
  }
}
