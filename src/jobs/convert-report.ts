import type { ConvertReport, StageWarning } from '../convert/index.ts'
import { reportStages, type StageInput } from './report-stages.ts'
import { human, seconds } from './report-units.ts'

/**
 * `<name>.report.json`: the pipeline report 1.0 of hyper2kvm (contracts A3), so that whoever reads those reads ours; fields that it does not
 * have are added at the end. Durations are seconds with two decimals there, sizes bytes.
 */
export function pipelineReport(
  o: StageInput & {
    version: string
    durationMs: number
    warnings: StageWarning[]
    error?: { stage: string; message: string }
    job: { id: string; epoch: number }
  },
): Record<string, unknown> {
  const { manifest: m, report: r } = o
  const stages = reportStages(o)
  const list = Object.values(stages)
  const artifacts = artifactsOf(r)
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
    artifacts,
    warnings,
    errors,
    summary: {
      total_stages: list.length,
      successful_stages: list.filter((s) => s.success).length,
      failed_stages: list.filter((s) => !s.success).length,
      total_warnings: warnings.length,
      total_errors: errors.length,
      total_artifacts: artifacts.length,
      input_disks: m.disks.length,
      output_disks: new Set(r.artifacts.map((a) => a.disk_id)).size,
    },
    job: o.job,
    dry_run: r.dry_run,
    ...(r.dry_run ? { estimate: r.estimate } : {}),
    disks: r.disks,
    ...(r.guest ? { guest: r.guest } : {}),
    ...(r.fix ? { fix: r.fix } : {}),
    ...(r.domain ? { domain: r.domain } : {}),
    ...(r.define ? { define: r.define } : {}),
    phases: r.stages.map(({ name, duration_ms }) => ({ name, duration_ms })),
  }
}

/** The disks, then the VM's description: `type` tells them apart. */
function artifactsOf(r: ConvertReport): Record<string, unknown>[] {
  const disks = r.artifacts.map((a) => ({
    type: 'converted_disk',
    path: a.path,
    disk_id: a.disk_id,
    format: a.format,
    size_bytes: a.size_bytes,
    size_human: human(a.size_bytes),
    boot_order_hint: a.boot_order_hint,
    compressed: a.compressed,
    // in the form of the manifest's own checksums
    ...(a.sha256 === undefined ? {} : { checksum: `sha256:${a.sha256}` }),
    ...(a.note === undefined ? {} : { note: a.note }),
  }))
  if (!r.domain) return disks
  const { path, size_bytes } = r.domain
  return [...disks, { type: 'domain_xml', path, format: 'libvirt', size_bytes, size_human: human(size_bytes) }]
}
