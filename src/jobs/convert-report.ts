import type { ConvertReport, StageWarning } from '../convert/index.ts'
import type { ConvertManifest } from '../manifest/index.ts'

/**
 * `<name>.report.json`: the pipeline report 1.0 of hyper2kvm (contracts A3), so that whoever reads those reads ours; fields that it does not
 * have are added at the end. Durations are seconds with two decimals there, sizes bytes.
 */
export function pipelineReport(o: {
  version: string
  manifest: ConvertManifest
  manifestPath: string
  report: ConvertReport
  dir: string
  durationMs: number
  warnings: StageWarning[]
  error?: { stage: string; message: string }
  job: { id: string; epoch: number }
}): Record<string, unknown> {
  const { manifest: m, report: r } = o
  const stages: Record<string, unknown> = {
    load_manifest: { success: true, duration: 0, result: loaded(m, o.manifestPath, r) },
  }
  for (const s of r.stages) {
    const name = STAGE_NAMES[s.name]
    if (!name) continue
    stages[name] = {
      success: s.success,
      duration: seconds(s.duration_ms),
      ...(s.success ? { result: resultOf(name, r, o.dir, m) } : { error: s.error ?? 'The stage did not end.' }),
    }
  }
  const list = Object.values(stages) as { success: boolean }[]
  const warnings = [...(m.warnings ?? []), ...o.warnings]
  const errors = o.error ? [{ ...o.error, timestamp: new Date().toISOString() }] : []
  return {
    version: '1.0',
    hyper2kvm_version: `vmspool ${o.version}`,
    timestamp: new Date().toISOString(),
    input_manifest: {
      path: o.manifestPath,
      manifest_version: m.manifest_version,
      source_provider: m.source?.provider ?? null,
      source_vm_id: m.source?.vm_id ?? null,
      source_vm_name: m.source?.vm_name ?? null,
    },
    pipeline: { success: o.error === undefined, duration_seconds: seconds(o.durationMs), stages },
    artifacts: r.artifacts.map((a) => ({
      type: 'converted_disk',
      path: a.path,
      disk_id: a.disk_id,
      format: a.format,
      size_bytes: a.size_bytes,
      size_human: human(a.size_bytes),
      boot_order_hint: a.boot_order_hint,
      compressed: a.compressed,
      ...(a.note === undefined ? {} : { note: a.note }),
    })),
    warnings,
    errors,
    summary: {
      total_stages: list.length,
      successful_stages: list.filter((s) => s.success).length,
      failed_stages: list.filter((s) => !s.success).length,
      total_warnings: warnings.length,
      total_errors: errors.length,
      total_artifacts: r.artifacts.length,
      input_disks: m.disks.length,
      output_disks: new Set(r.artifacts.map((a) => a.disk_id)).size,
    },
    job: o.job,
    dry_run: r.dry_run,
    ...(r.dry_run ? { estimate: r.estimate } : {}),
    disks: r.disks,
    phases: r.stages.map(({ name, duration_ms }) => ({ name, duration_ms })),
  }
}

const STAGE_NAMES: Record<string, string | undefined> = {
  inspect: 'inspect',
  fix: 'fix',
  copy: 'convert',
  validate: 'validate',
}

function loaded(m: ConvertManifest, path: string, r: ConvertReport): Record<string, unknown> {
  return {
    manifest_version: m.manifest_version,
    manifest_path: path,
    source_provider: m.source?.provider ?? null,
    source_vm_id: m.source?.vm_id ?? null,
    source_vm_name: m.source?.vm_name ?? null,
    disks_count: m.disks.length,
    firmware: m.vm?.firmware ?? 'bios',
    os_hint: m.vm?.os_hint ?? 'unknown',
    checksums_verified: r.disks.length > 0 && r.disks.every((d) => d.checksum_verified),
  }
}

function resultOf(stage: string, r: ConvertReport, dir: string, m: ConvertManifest): Record<string, unknown> {
  if (stage === 'inspect') {
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
        ...(d.boot && r.guest ? { guest: r.guest } : {}),
        ...(d.boot && r.guest_error !== undefined ? { guest_inspection_error: r.guest_error } : {}),
      })),
    }
  }
  if (stage === 'fix') return { ...(r.fix ?? { skipped: true }) }
  if (stage === 'convert') {
    return {
      disks_converted: r.disks.length,
      output_format: r.artifacts.find((a) => a.note === undefined)?.format ?? null,
      output_directory: dir,
      compressed: r.artifacts.some((a) => a.compressed),
      converted_disks: r.artifacts.map((a) => ({
        disk_id: a.disk_id,
        input_format: r.disks.find((d) => d.id === a.disk_id)?.source_format ?? null,
        output_format: a.format,
        output_path: a.path,
        output_size_bytes: a.size_bytes,
        output_size_human: human(a.size_bytes),
        boot_order_hint: a.boot_order_hint,
      })),
    }
  }
  return {
    disks_validated: r.artifacts.length,
    all_passed: true,
    validation_results: r.artifacts.map((a) => ({
      disk_id: a.disk_id,
      path: a.path,
      passed: true,
      check: a.format === 'raw' ? 'none (raw has no structure)' : 'qemu-img check',
    })),
  }
}

function seconds(ms: number): number {
  return Math.round(ms / 10) / 100
}

/** Binary units, one decimal: "1.5 GiB". */
export function human(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']
  let n = bytes
  let u = 0
  while (n >= 1024 && u < units.length - 1) {
    n /= 1024
    u++
  }
  return `${u === 0 ? n : n.toFixed(1)} ${units[u]}`
}
