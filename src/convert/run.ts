import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { checkImage, ImageError } from '../images/index.ts'
import { hashFile } from './checksum.ts'
import { choosePath } from './choose.ts'
import { copyOpened, type CopyMeter } from './copy.ts'
import type { DiskCopy, Target } from './targets.ts'
import { type DescribedVm, describeVm, withMachine, writeDescription } from './describe.ts'
import { describeDisk, estimateTime, howOf } from './disk-report.ts'
import { guestSteps } from './fix/index.ts'
import { type Inspected, inspectSources } from './inspect.ts'
import { collectOutputs, targetsOf } from './outputs.ts'
import { adoptReady, putAside, recordReady } from './ready.ts'
import { freeBytes, requireSpace } from './space.ts'
import type { ConvertHooks, ConvertPlan, ConvertReport, StageReport } from './types.ts'
import { UNPACK_FOLDER } from './unpack.ts'

/**
 * inspect → copy → fix → merge → validate → define. Finished files lie in `plan.dir` at the end; nothing
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
      try {
        // a path that was asked for and cannot be used is told before anything is written
        for (const t of targetsOf(plan, i.disks)) choosePath(plan, t.disk, t.format)
        report.disks = i.disks.map((d) => describeDisk(plan, d))
      } catch (e) {
        await i.close()
        throw e
      }
      return i
    })
    report.estimate.bytes = inspected.disks.reduce((n, d) => n + d.estimate, 0)
    report.estimate.time_ms = estimateTime(plan, inspected)
    report.estimate.free_bytes = await freeBytes(plan.dir)
    if (plan.dry_run) {
      await rm(join(plan.scratch, UNPACK_FOLDER), { recursive: true, force: true })
      return report
    }
    await make(plan, hooks, report, inspected)
    return report
  } catch (e) {
    // a failed job's answer describes no VM
    if (report.domain) await rm(join(plan.dir, report.domain.path), { force: true })
    delete report.domain
    if (e instanceof ImageError || e instanceof Error) Object.assign(e, { report })
    throw e
  } finally {
    await inspected?.close()
  }
}

async function make(
  plan: ConvertPlan,
  hooks: ConvertHooks,
  report: ConvertReport,
  inspected: Inspected,
): Promise<void> {
  const targets = targetsOf(plan, inspected.disks)
  const ready = await adoptReady(plan, targets)
  let copies: DiskCopy[] | undefined
  if (ready) {
    hooks.log('agent', `took over the finished disks of an earlier attempt (from ${ready.from})\n`)
    const { stages, warnings, disks, ...told } = ready.told
    report.stages.push(...stages)
    report.warnings.push(...warnings)
    Object.assign(report, told, { disks: disks.map((d) => ({ ...d, adopted: true })) })
  } else copies = await copyStage(plan, hooks, report, inspected, targets)
  const vm = await stage(report, hooks, 'describe', async () => {
    const described = describeVm(plan, inspected, targets, report)
    for (const message of described.warnings) warn(report, 'describe', message)
    if (described.vm && !plan.define) report.domain = await writeDescription(plan, described.vm)
    return described.vm
  })
  if (copies) {
    const finished = copies
    report.artifacts = await stage(report, hooks, 'collect', () => collectOutputs(plan, hooks, finished))
  }
  if (plan.define) {
    if (!ready) await recordReady(plan, targets, report)
    await defineStage(plan, hooks, report, targets, vm)
  }
  for (const f of ['copy', 'fix', UNPACK_FOLDER]) await rm(join(plan.scratch, f), { recursive: true, force: true })
}

/** The finished disks become a VM. What fails here costs no copy: a later attempt begins here again. */
async function defineStage(
  plan: ConvertPlan,
  hooks: ConvertHooks,
  report: ConvertReport,
  targets: readonly Target[],
  vm: DescribedVm | undefined,
): Promise<void> {
  try {
    await stage(report, hooks, 'define', async () => {
      if (!vm)
        throw new ImageError('The VM cannot be defined: the path of a disk has characters that XML cannot hold.', {
          code: 'bad-path',
          phase: 'define',
          hint: 'Let the output and vm.dir lie below folders with plain names.',
        })
      const disks = targets
        .filter((t) => t.format === plan.output.format)
        .map((t) => ({
          id: t.disk.id,
          path: join(plan.dir, t.final),
          format: t.format,
          size_bytes: t.disk.info.virtual_size,
          boot: t.disk.boot,
        }))
      const answer = await plan.define!({ domain: vm.domain, disks })
      if ('refused' in answer) {
        report.not_defined = answer.refused
        warn(report, 'define', answer.refused)
        if (plan.vm?.write_xml) report.domain = await writeDescription(plan, vm)
        return
      }
      const { xml, domain, warnings, ...done } = answer
      for (const message of warnings) warn(report, 'define', message)
      report.define = done
      if (!plan.vm?.write_xml) return
      // the VM is there and may run: a description that cannot be written must not undo that
      await writeDescription(plan, { ...vm, domain }, xml).then(
        (d) => {
          report.domain = d
        },
        (e: Error) => warn(report, 'define', `${plan.name}.xml could not be written: ${e.message}.`),
      )
    })
  } catch (e) {
    await putAside(plan)
    report.artifacts = []
    throw e
  }
}

async function copyStage(
  plan: ConvertPlan,
  hooks: ConvertHooks,
  report: ConvertReport,
  inspected: Inspected,
  targets: readonly Target[],
): Promise<DiskCopy[]> {
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
    if (c.format === plan.output.format) Object.assign(d, howOf(c.record))
  }
  await guestSteps(withMachine(plan, inspected), hooks, copies, report, (name, work) =>
    stage(report, hooks, name, work),
  )
  await stage(report, hooks, 'validate', async () => {
    for (const c of copies) {
      hooks.progress({ phase: 'validate', message: c.disk.id })
      // raw has no structure that could be checked
      if (c.format !== 'raw') await checkImage(c.record.file, c.format, { ...hooks, cwd: plan.scratch })
      if (!plan.output.checksum) continue
      c.sha256 = await hashFile(join(plan.scratch, c.record.file), hooks.signal, (bytes_done, bytes_total) =>
        hooks.progress({ phase: 'checksum', bytes_done, bytes_total, message: c.disk.id }),
      )
    }
  })
  return copies
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
