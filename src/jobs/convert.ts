import { readFile, rm, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import {
  convertDisks,
  finishedWork,
  type ConvertPlan,
  type ConvertReport,
  type StageWarning,
  usedByVm,
} from '../convert/index.ts'
import { ImageError } from '../images/index.ts'
import type { ConvertManifest } from '../manifest/index.ts'
import { SpawnError } from '../process/index.ts'
import { planConversion } from './convert-plan.ts'
import { pipelineReport } from './convert-report.ts'
import { human } from './report-units.ts'
import {
  abortedError,
  abortReason,
  type JobContext,
  JobError,
  type JobHandler,
  type JobOutcome,
  type KeptWork,
} from './types.ts'
import { errno } from '../process/errno.ts'

/** The handler of `kind: convert`: disks, OVA or OVF → qcow2, raw or vdi. */
export const convert: JobHandler<ConvertManifest> = {
  kind: 'convert',
  // a disk each, up to what one job can keep busy
  weight: (m) => Math.min(4, Math.max(1, m.disks.length)),
  run: runConversion,
}

async function runConversion(m: ConvertManifest, c: JobContext<ConvertManifest>): Promise<JobOutcome> {
  const started = performance.now()
  const { plan, warnings: skipped, notes } = await planConversion(m, c)
  for (const n of notes) c.log('agent', `note: ${n}\n`)
  for (const w of skipped) c.log('agent', `warning: ${w.message}\n`)
  const stamp = new Date().toISOString()
  const first: StageWarning[] = skipped.map((w) => ({ ...w, timestamp: stamp }))
  const finish = async (report: ConvertReport, error?: { stage: string; message: string }): Promise<StageWarning[]> => {
    const warnings = [...first, ...report.warnings]
    if (m.options?.report?.enabled !== false) {
      const body = pipelineReport({
        version: await version(),
        manifest: m,
        manifestPath: c.drop.file,
        report,
        dir: resolve(c.publicDir ?? c.answerDir),
        compare: plan.validate.compare,
        durationMs: performance.now() - started,
        warnings,
        ...(error ? { error } : {}),
        job: { id: c.id, epoch: c.epoch },
      })
      await writeFile(join(c.answerDir, `${c.answer}.report.json`), `${JSON.stringify(body, null, 2)}\n`)
    }
    return warnings
  }
  let report: ConvertReport
  try {
    report = await convertDisks(plan, {
      signal: c.signal,
      progress: c.progress,
      log: c.log,
      spawned: c.spawned,
    })
  } catch (e) {
    const partial = (e as { report?: ConvertReport } | undefined)?.report ?? emptyReport(plan)
    throw await failed(e, plan, c, (error) => finish(partial, error))
  }
  for (const w of report.warnings) c.log('agent', `warning: ${w.message}\n`)
  const warnings = await finish(report)
  return outcome(plan, report, warnings)
}

function outcome(plan: ConvertPlan, report: ConvertReport, warnings: StageWarning[]): JobOutcome {
  const disks = `${report.disks.length} disk${report.disks.length === 1 ? '' : 's'}`
  const summary = report.dry_run
    ? `Dry run: ${disks} would be converted to ${plan.output.format}, about ${human(report.estimate.bytes)} in about ${Math.max(1, Math.round(report.estimate.time_ms / 1000))} s; ${human(report.estimate.free_bytes)} are free.`
    : `Converted ${disks} to ${plan.output.format}${plan.output.compress ? ' (compressed)' : ''}, ${human(report.artifacts.reduce((n, a) => n + a.allocated_bytes, 0))} on disk.${definedAs(report)}`
  return {
    summary,
    exit_code: 0,
    artifacts: report.artifacts.map((a) => ({
      path: a.path,
      disk_id: a.disk_id,
      format: a.format,
      size_bytes: a.size_bytes,
      allocated_bytes: a.allocated_bytes,
      compressed: a.compressed,
      ...(a.sha256 === undefined ? {} : { sha256: a.sha256 }),
      boot: a.boot,
      ...(a.note === undefined ? {} : { note: a.note }),
    })),
    phases: report.stages.map((s) => ({ name: s.name, duration_ms: s.duration_ms })),
    warnings: warnings.map((w) => ({ message: w.message, path: w.stage, severity: 'warning', stage: w.stage })),
    disks: report.disks,
    ...(report.domain ? { domain: report.domain } : {}),
    ...(report.define ? { define: report.define } : {}),
    ...(report.not_defined === undefined ? {} : { not_defined: report.not_defined }),
    ...(report.fix ? { fix: report.fix } : {}),
    ...(report.guest ? { guest: report.guest } : {}),
    dry_run: report.dry_run,
    ...(report.dry_run ? { estimate: report.estimate } : {}),
  }
}

function definedAs({ define: d }: ConvertReport): string {
  if (!d) return ''
  return ` The VM "${d.name}" was defined${d.started ? ' and started' : d.running ? ', and runs' : ''}.`
}

/**
 * After a failure the answer folder holds no disk: at most the report. What was copied stays in the attempt's folder for the next
 * attempt, unless there will be none.
 */
async function failed(
  e: unknown,
  plan: ConvertPlan,
  c: JobContext<ConvertManifest>,
  report: (error: { stage: string; message: string }) => Promise<unknown>,
): Promise<unknown> {
  if (c.signal.aborted) {
    const error = abortedError(c.signal, 'convert')
    if (abortReason(c.signal)?.kind === 'cancel') await removeWork(plan)
    else error.kept = await keptWork(plan)
    return error
  }
  const error = asJobError(e)
  if (SUSPECT.has(error.code)) await removeWork(plan)
  else error.kept = await keptWork(plan)
  await report({ stage: error.phase ?? 'convert', message: error.message }).catch((x: unknown) =>
    c.log('agent', `The report could not be written: ${String(x)}\n`),
  )
  return error
}

/** Failures that say that what was made is not right: it is made anew. */
const SUSPECT = new Set(['check-failed', 'compare-failed', 'checksum-mismatch', 'internal'])

/** Whole files with their records are kept for a job that repeats this one; halves are removed. */
async function keptWork(plan: ConvertPlan): Promise<KeptWork | undefined> {
  if (await usedByVm(plan.scratch)) return undefined
  const { steps, bytes } = await finishedWork(plan.scratch)
  if (steps.includes('copy')) return { steps, bytes }
  return undefined
}

async function removeWork(plan: ConvertPlan): Promise<void> {
  for (const name of ['unpack', 'copy', 'fix', 'artefacts'])
    await rm(join(plan.scratch, name), { recursive: true, force: true })
}

function asJobError(e: unknown): JobError {
  if (e instanceof JobError) return e
  if (e instanceof ImageError) {
    return new JobError(e.message, {
      code: e.code,
      transient: e.transient,
      hint: e.hint,
      exit_code: e.exit_code,
      signal: e.signal,
      phase: e.phase,
      cause: e,
    })
  }
  if (e instanceof SpawnError) {
    return new JobError(e.message, {
      code: 'tool-missing',
      transient: e.code === 'EAGAIN' || e.code === 'ENOMEM',
      hint: 'Install qemu-utils (Debian) or qemu-img (Fedora); "vmspool doctor" says what else is missing.',
      cause: e,
    })
  }
  const code = errno(e)
  const text = e instanceof Error ? e.message : String(e)
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new JobError(`The output filesystem is full: ${text}.`, {
      code: 'no-space',
      transient: true,
      hint: 'Free space there; the job is tried again.',
      cause: e,
    })
  }
  if (/^E[A-Z0-9]+$/.test(code)) {
    return new JobError(`A file operation failed: ${text}.`, {
      code: 'io',
      transient: true,
      hint: 'Check the filesystems of source and output.',
      cause: e,
    })
  }
  return new JobError(`The conversion failed in a way that was not foreseen: ${text}.`, {
    code: 'internal',
    transient: false,
    hint: 'This is a fault of vmspool; please report it with the log of the job.',
    cause: e,
  })
}

function emptyReport(plan: ConvertPlan): ConvertReport {
  return {
    dry_run: plan.dry_run,
    stages: [],
    disks: [],
    artifacts: [],
    warnings: [],
    estimate: { bytes: 0, time_ms: 0, free_bytes: 0 },
  }
}

let known: string | undefined
async function version(): Promise<string> {
  known ??= String(
    (JSON.parse(await readFile(new URL('../../package.json', import.meta.url), 'utf8')) as { version: unknown })
      .version,
  )
  return known
}
