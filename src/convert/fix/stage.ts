import { createHash } from 'node:crypto'
import { copyFile, mkdir, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { checkImage, ImageError, qemuImg } from '../../images/index.ts'
import { adoptStep, readStep, recordStep, type StepRecord } from '../artefacts.ts'
import type { DiskCopy } from '../targets.ts'
import { requireSpace } from '../space.ts'
import type { ConvertHooks, ConvertPlan } from '../types.ts'
import { type Appliance, openAppliance } from './appliance.ts'
import { customizeArgs } from './customize.ts'
import { addDisks, onePerDisk } from './inspector.ts'
import { needTool, NotPossible, printed, probeV2v } from './programs.ts'
import { runGuestTool } from './run-tool.ts'
import type { FixPlan, FixReport, GuestToolSettings } from './types.ts'
import { factsOf, notOffered, sourceDomain } from './v2v.ts'

const SUMMARY = 'summary'
/** What an overlay and the tools' logs may need at least; the watch on free space catches a guest that needs more. */
const SPACE = 512 * 2 ** 20

export const toolSettings = (plan: ConvertPlan): GuestToolSettings => plan.guest_tools ?? { accelerator: 'auto' }

/** Folder, relative to the attempt's, in which overlays and logs lie. The overlays name their backing files relative to it. */
const FOLDER = 'fix'

interface Overlay {
  copy: DiskCopy
  /** absolute */
  path: string
  /** its size while it holds nothing */
  empty_bytes: number
}

/**
 * Fixes and configures the guest on qcow2 overlays over the finished copies, which stay as they are: a failed fix costs no copy. What an earlier
 * attempt finished is taken over. The overlays are the artefact; merging them is another step.
 * @returns undefined when it cannot be done here and the plan says to go on without
 * @throws {ImageError} guest-tool, no-guest, fix-unavailable, …; the signal's reason
 */
export async function fixGuest(
  plan: ConvertPlan,
  hooks: ConvertHooks,
  copies: readonly DiskCopy[],
  warn: (message: string) => void,
): Promise<FixReport | undefined> {
  const fix = plan.fix!
  const key = fixKey(fix, onePerDisk(copies))
  const done = await takeOver(plan, hooks, copies, key)
  if (done) return done
  try {
    return await runFix(plan, hooks, onePerDisk(copies), key)
  } catch (e) {
    const impossible = e instanceof NotPossible || (e instanceof ImageError && e.code === 'no-guest')
    if (!impossible) throw e
    const { message, hint } = e as NotPossible
    if (fix.unavailable === 'fail') {
      if (e instanceof ImageError) throw e
      throw new ImageError(`The guest cannot be fixed on this host: ${message}`, {
        code: 'fix-unavailable',
        phase: 'fix',
        hint,
      })
    }
    warn(
      `stage-skipped: the guest was not fixed, its disks are converted as they are. ${message} ${hint} (fix.unavailable: fail, or "required": true in pipeline.fix, lets such jobs fail instead.)`,
    )
    return undefined
  }
}

/** Whatever the copies hold and whatever is to be done with it; the tools' versions are left out, so that an update redoes nothing. */
function fixKey(fix: FixPlan, disks: readonly DiskCopy[]): string {
  return createHash('sha256')
    .update(JSON.stringify([fix.key, disks.map((d) => [d.disk.id, d.record.key])]))
    .digest('hex')
}

/** How far the merge of a copy has come in this attempt, by the records that came with it. */
export async function mergeState(plan: ConvertPlan, c: DiskCopy): Promise<StepRecord | undefined> {
  return readStep(plan.scratch, 'merge', basename(c.record.file))
}

async function takeOver(
  plan: ConvertPlan,
  hooks: ConvertHooks,
  copies: readonly DiskCopy[],
  key: string,
): Promise<FixReport | undefined> {
  const summary = await adoptStep(plan.scratch, plan.earlier, { step: 'fix', name: SUMMARY, key }, hooks)
  const report = summary?.record.result as FixReport | undefined
  let touched = false
  const missing: string[] = []
  for (const c of copies) {
    const merge = await mergeState(plan, c)
    touched ||= merge !== undefined
    if (merge && !merge.started) continue
    const name = overlayName(c)
    if (!report?.changed.some((x) => x.disk_id === c.disk.id)) continue
    if (await stat(join(plan.scratch, FOLDER, name)).catch(() => undefined)) continue // the same disk in two formats
    if (!(await adoptStep(plan.scratch, plan.earlier, { step: 'fix', name, key }, hooks))) missing.push(name)
  }
  if (summary && report && missing.length === 0) {
    hooks.log('agent', `fix: took over the finished fix of an earlier attempt (from ${summary.from})\n`)
    await keepLogs(plan, join(summary.from, FOLDER))
    return { ...report, adopted: true }
  }
  await rm(join(plan.scratch, 'artefacts', `fix-${SUMMARY}.json`), { force: true })
  if (!touched) return undefined
  // some copies are merged already: what is missing cannot be made again on top of them
  for (const folder of ['copy', 'artefacts', FOLDER])
    await rm(join(plan.scratch, folder), { recursive: true, force: true })
  throw new ImageError(
    'An earlier attempt had begun to merge the fixed guest into its disks, and its overlays are gone.',
    {
      code: 'artefacts-lost',
      transient: true,
      phase: 'fix',
      hint: 'The disks are copied again.',
    },
  )
}

function overlayName(c: DiskCopy): string {
  return `${c.disk.id}.qcow2`
}

async function runFix(
  plan: ConvertPlan,
  hooks: ConvertHooks,
  disks: readonly DiskCopy[],
  key: string,
): Promise<FixReport> {
  const started = performance.now()
  const fix = plan.fix!
  const settings = toolSettings(plan)
  const dir = join(plan.scratch, FOLDER)
  await rm(dir, { recursive: true, force: true })
  await mkdir(dir)
  const v2v = fix.options ? await probeV2v(settings) : undefined
  const customize = fix.configuration ? await needTool('virt-customize') : undefined
  const cat = fix.options?.print_fstab ? await needTool('virt-cat') : undefined
  await requireSpace(plan.scratch, SPACE, plan.reserve_bytes)
  const appliance = await openAppliance(settings, dir)
  try {
    const overlays = await makeOverlays(hooks, disks, dir)
    const report = emptyReport(fix, disks)
    const run = runner({ plan, hooks, appliance, dir, overlays })
    hooks.log(
      'agent',
      `fix: ${[v2v?.version, customize && 'virt-customize'].filter(Boolean).join(', ')}; appliance under ${appliance.accelerator === 'kvm' ? 'KVM' : 'emulation (no KVM here), which takes minutes'}${appliance.prefix.length > 0 ? ', without network' : ''}\n`,
    )
    const fstab = async (): Promise<string> =>
      (await run([cat!, ...onOverlays(overlays), '/etc/fstab'], 'virt-cat', 'read /etc/fstab', true)).stdout
    const before = cat ? await fstab() : ''
    if (v2v) {
      const xml = join(dir, 'source.xml')
      await writeFile(
        xml,
        sourceDomain(
          plan.name,
          fix.machine,
          overlays.map((o) => o.path),
        ),
      )
      const args = ['-v', '-x', '--machine-readable=stream:stdout', '--root', 'first', '-i', 'libvirtxml', xml]
      const { messages } = await run([v2v.program, ...args], 'virt-v2v', 'fix the guest', false)
      report.warnings.push(...messages.filter((m) => m.type === 'warning').map((m) => `virt-v2v: ${m.text}`))
      const { fstab_renamed, ...facts } = await factsOf(join(dir, 'virt-v2v.log'))
      Object.assign(report, facts)
      if (fstab_renamed) report.fstab_mode = 'virt-v2v renamed devices'
      report.tools.push(v2v.version)
    }
    if (customize) {
      const { args, done } = await customizeArgs(fix.configuration!, dir)
      // --no-network stands before the rest: nothing that the guest runs meanwhile reaches out
      const argv = [customize, '-v', '--no-network', '--selinux-relabel', ...onOverlays(overlays), ...args]
      await run(argv, 'virt-customize', 'configure the guest', false)
      report.configured = done
      report.tools.push((await printed([customize, '--version']))?.trim() ?? 'virt-customize')
    }
    if (cat) {
      report.fstab = { before, after: await fstab() }
      hooks.log('agent', `fstab before:\n${report.fstab.before}\nfstab after:\n${report.fstab.after}\n`)
    }
    await finish(plan, hooks, overlays, report, key, started)
    return report
  } catch (e) {
    for (const d of disks) await rm(join(dir, overlayName(d)), { force: true })
    throw e
  } finally {
    await rm(join(dir, 'conf'), { recursive: true, force: true })
    await keepLogs(plan, dir)
    await appliance.close()
  }
}

function onOverlays(overlays: readonly Overlay[]): string[] {
  return addDisks(overlays.map((o) => ({ path: o.path, format: 'qcow2' })))
}

function runner(o: {
  plan: ConvertPlan
  hooks: ConvertHooks
  appliance: Appliance
  dir: string
  overlays: readonly Overlay[]
}) {
  return (argv: readonly string[], log: string, what: string, data: boolean) =>
    runGuestTool(argv, {
      ...o,
      cwd: o.dir,
      outputs: o.overlays.map((x) => x.path),
      log: join(o.dir, `${log}.log`),
      phase: 'fix',
      what,
      data,
    })
}

async function makeOverlays(hooks: ConvertHooks, disks: readonly DiskCopy[], dir: string): Promise<Overlay[]> {
  const out: Overlay[] = []
  for (const copy of disks) {
    const name = overlayName(copy)
    // relative, so that the chain holds wherever a later attempt moves both
    const backing = join('..', copy.record.file)
    const args = ['create', '-q', '-f', 'qcow2', '-b', backing, '-F', copy.format, name]
    await qemuImg(args, { ...hooks, cwd: dir, phase: 'fix', what: `make an overlay over ${copy.record.file}` })
    const path = join(dir, name)
    out.push({ copy, path, empty_bytes: (await stat(path)).size })
  }
  return out
}

/** The overlays first, the summary last: the step is finished when its summary is recorded. */
async function finish(
  plan: ConvertPlan,
  hooks: ConvertHooks,
  overlays: readonly Overlay[],
  report: FixReport,
  key: string,
  started: number,
): Promise<void> {
  for (const o of overlays) {
    const name = overlayName(o.copy)
    const { size } = await stat(o.path)
    if (size === o.empty_bytes) {
      if (!o.copy.disk.boot) report.data_disks_skipped += 1
      await rm(o.path)
      continue
    }
    await checkImage(`${FOLDER}/${name}`, 'qcow2', { ...hooks, cwd: plan.scratch })
    report.changed.push({ disk_id: o.copy.disk.id, overlay_bytes: size })
    await recordStep(plan.scratch, { schema: 1, step: 'fix', name, key, file: `${FOLDER}/${name}` })
  }
  const duration_ms = Math.round(performance.now() - started)
  await recordStep(plan.scratch, {
    schema: 1,
    step: 'fix',
    name: SUMMARY,
    key,
    duration_ms,
    result: report as unknown as Record<string, unknown>,
  })
}

function emptyReport(fix: FixPlan, disks: readonly DiskCopy[]): FixReport {
  return {
    boot_disk_id: disks.find((d) => d.disk.boot)?.disk.id ?? null,
    data_disks_skipped: 0,
    fstab_mode: fix.options ? 'virt-v2v found nothing to rename' : 'noop',
    grub_updated: false,
    initramfs_regenerated: false,
    vmware_tools_removed: false,
    tools: [],
    configured: [],
    not_offered: fix.options ? notOffered(fix.options) : [],
    warnings: [],
    backup: 'The source disks are never changed; the fix was made on overlays.',
    changed: [],
    adopted: false,
  }
}

async function logsIn(dir: string): Promise<string[]> {
  return (await readdir(dir).catch(() => [] as string[])).filter((f) => f.endsWith('.log')).map((f) => join(dir, f))
}

/** Copies the tools' logs to where they are kept with the job; those of a taken-over fix come along. */
async function keepLogs(plan: ConvertPlan, from: string): Promise<void> {
  for (const path of await logsIn(from)) {
    if (from !== join(plan.scratch, FOLDER)) {
      await mkdir(join(plan.scratch, FOLDER), { recursive: true })
      await copyFile(path, join(plan.scratch, FOLDER, basename(path))).catch(() => undefined)
    }
    if (plan.logs_dir !== undefined) await copyFile(path, join(plan.logs_dir, basename(path))).catch(() => undefined)
  }
}
