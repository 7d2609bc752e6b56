import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { checkImage, ImageError } from '../images/index.ts'
import { copyOpened, type CopyMeter, type DiskCopy } from './copy.ts'
import { type Inspected, inspectSources } from './inspect.ts'
import { collectOutputs, targetsOf } from './outputs.ts'
import { freeBytes, requireSpace } from './space.ts'
import type { ConvertHooks, ConvertPlan, ConvertReport, DiskReport, StageReport } from './types.ts'

/** Bytes per second that a dry run reckons with; measured on two cores with an SSD, and said to be an estimate. */
const PLAIN_RATE = 300e6
const COMPRESS_RATE = 120e6

/**
 * inspect → copy → fix → merge → validate → define, as far as this version goes. Finished files lie in `plan.dir` at the end; nothing
 * else is left but records in `plan.scratch`. Sources are only read.
 * @throws {ImageError} with a phase; the signal's reason when aborted
 */
export async function convertDisks(plan: ConvertPlan, hooks: ConvertHooks): Promise<ConvertReport> {
  const report: ConvertReport = {
    dry_run: plan.dry_run,
    stages: [],
    disks: [],
    artifacts: [],
    warnings: [],
    estimate: { bytes: 0, time_ms: 0, free_bytes: 0 },
  }
  let inspected: Inspected | undefined
  try {
    inspected = await stage(report, hooks, 'inspect', async () => {
      const i = await inspectSources(plan, hooks)
      for (const message of i.warnings) warn(report, 'inspect', message)
      return i
    })
    report.disks = inspected.disks.map((d) => describeDisk(d))
    report.estimate.bytes = inspected.disks.reduce((n, d) => n + d.estimate, 0)
    report.estimate.time_ms = estimateTime(plan, inspected)
    report.estimate.free_bytes = await freeBytes(plan.dir)
    if (plan.dry_run) return report
    await copyStage(plan, hooks, report, inspected)
    return report
  } catch (e) {
    if (e instanceof ImageError || e instanceof Error) Object.assign(e, { report })
    throw e
  } finally {
    await inspected?.close()
  }
}

async function copyStage(
  plan: ConvertPlan,
  hooks: ConvertHooks,
  report: ConvertReport,
  inspected: Inspected,
): Promise<void> {
  const targets = targetsOf(plan, inspected.disks)
  const copies = await stage(report, hooks, 'copy', async () => {
    await requireSpace(plan.scratch, report.estimate.bytes, plan.reserve_bytes)
    const meter = meterOf(
      hooks,
      targets.reduce((n, t) => n + t.disk.info.virtual_size, 0),
    )
    const done: DiskCopy[] = []
    for (const o of inspected.opened) {
      done.push(
        ...(await copyOpened(
          plan,
          hooks,
          o,
          targets.filter((t) => o.disks.includes(t.disk)),
          meter,
        )),
      )
    }
    return done
  })
  for (const c of copies) {
    const d = report.disks.find((x) => x.id === c.disk.id)!
    d.checksum_verified ||= c.record.checksum_verified
    d.adopted ||= c.adopted
    d.copy_ms = (d.copy_ms ?? 0) + c.record.copy_ms
  }
  await stage(report, hooks, 'validate', async () => {
    for (const c of copies) {
      if (c.format === 'raw') continue // has no structure that could be checked
      hooks.progress({ phase: 'validate', message: c.disk.id })
      await checkImage(c.record.file, c.format, { ...hooks, cwd: plan.scratch })
    }
  })
  report.artifacts = await stage(report, hooks, 'collect', () => collectOutputs(plan, hooks, copies))
  await rm(join(plan.scratch, 'copy'), { recursive: true, force: true })
}

async function stage<T>(report: ConvertReport, hooks: ConvertHooks, name: string, work: () => Promise<T>): Promise<T> {
  hooks.signal.throwIfAborted()
  hooks.progress({ phase: name })
  const started = performance.now()
  const entry: StageReport = { name, success: false, duration_ms: 0 }
  report.stages.push(entry)
  try {
    const r = await work()
    entry.success = true
    return r
  } catch (e) {
    entry.error = e instanceof Error ? e.message : 'The job was aborted.'
    throw e
  } finally {
    entry.duration_ms = Math.round(performance.now() - started)
    hooks.log('agent', `${name}: ${entry.success ? 'done' : 'failed'} in ${entry.duration_ms} ms\n`)
  }
}

function warn(report: ConvertReport, stageName: string, message: string): void {
  report.warnings.push({ stage: stageName, message, timestamp: new Date().toISOString() })
}

function meterOf(hooks: ConvertHooks, total: number): CopyMeter {
  let base = 0
  hooks.progress({ phase: 'copy', bytes_done: 0, bytes_total: total })
  return {
    advance: (bytes, message) =>
      hooks.progress({ phase: 'copy', bytes_done: Math.min(total, base + bytes), bytes_total: total, message }),
    done: (bytes) => {
      base += bytes
      hooks.progress({ phase: 'copy', bytes_done: Math.min(total, base), bytes_total: total })
    },
  }
}

function estimateTime(plan: ConvertPlan, i: Inspected): number {
  const rate = plan.output.compress && plan.output.format === 'qcow2' ? COMPRESS_RATE : PLAIN_RATE
  const bytes = i.disks.reduce(
    (n, d) =>
      n +
      Math.max(
        d.estimate,
        d.image.windows.reduce((m, w) => m + Math.min(w.size, w.file.stat.blocks * 512), 0),
      ),
    0,
  )
  return Math.round((bytes / rate) * 1000)
}

function describeDisk(d: Inspected['disks'][number]): DiskReport {
  const w = d.image.windows[0]!
  return {
    id: d.id,
    from: d.planned.id,
    source: w.label,
    source_format: d.image.format,
    ...(d.image.subformat === undefined ? {} : { subformat: d.image.subformat }),
    virtual_size_bytes: d.info.virtual_size,
    actual_bytes: w.file.stat.size,
    ...(d.planned.bytes ? { expected_bytes: d.planned.bytes } : {}),
    checksum_verified: false,
    path: 'qemu-img',
    path_reason: 'the only path of this version',
    adopted: false,
    boot: d.boot,
    boot_order_hint: d.boot_order_hint,
    estimate_bytes: d.estimate,
  }
}
