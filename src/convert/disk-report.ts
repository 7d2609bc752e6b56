import type { CopyRecord } from './artefacts.ts'
import { choosePath } from './choose.ts'
import type { Inspected, SourceDisk } from './inspect.ts'
import type { ConvertPlan, DiskReport } from './types.ts'

/** What the report says of a disk once it is inspected. */
export function describeDisk(plan: ConvertPlan, d: SourceDisk): DiskReport {
  const w = d.image.windows[0]!
  const choice = choosePath(plan, d, plan.output.format)
  return {
    id: d.id,
    from: d.planned.id,
    source: w.label,
    source_format: d.image.format,
    ...(d.image.subformat === undefined ? {} : { subformat: d.image.subformat }),
    virtual_size_bytes: d.info.virtual_size,
    actual_bytes: (w.file.from?.file ?? w.file).stat.size,
    ...(d.planned.bytes ? { expected_bytes: d.planned.bytes } : {}),
    checksum_verified: false,
    path: choice.path,
    path_reason: choice.reason,
    adopted: false,
    boot: d.boot,
    boot_order_hint: d.boot_order_hint,
    estimate_bytes: d.estimate,
  }
}

/** What it says once the disk is copied: inspection's choice may have turned out wrong. */
export function howOf({ how }: CopyRecord): Partial<DiskReport> {
  const { path, reason, grains, transfer } = how
  return { path, path_reason: reason, ...(grains ? { grains } : {}), ...(transfer ? { transfer } : {}) }
}

/** Bytes per second that a dry run reckons with; measured on two cores with an SSD, and said to be an estimate. */
const RATES = { 'zero-copy': 800e6, inflate: 500e6, plain: 300e6, compressed: 120e6 }

/** Milliseconds that the copies are likely to take. */
export function estimateTime(plan: ConvertPlan, i: Inspected): number {
  let ms = 0
  for (const d of i.disks) {
    const { path } = choosePath(plan, d, plan.output.format)
    const compress = plan.output.compress && plan.output.format === 'qcow2'
    const rate = path === 'qemu-img' ? RATES[compress ? 'compressed' : 'plain'] : RATES[path]
    const stored = d.image.windows.reduce((m, w) => m + Math.min(w.size, w.file.stat.blocks * 512), 0)
    ms += (Math.max(d.estimate, stored) / rate) * 1000
  }
  return Math.round(ms)
}
