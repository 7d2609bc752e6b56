/**
 * The disks are finished, only the VM over them is missing. The record of that lets a later attempt begin at the define step, whatever has
 * become of the disks' content since: a VM that an attempt had started before it was killed already writes into them, and they would be taken
 * neither for what was copied nor for sound images.
 */
import { createHash } from 'node:crypto'
import { mkdir, rename, rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { readStep, recordStep, type StepRecord, syncFile } from './artefacts.ts'
import { copyKey } from './copy.ts'
import type { Target } from './targets.ts'
import type { Artifact, ConvertPlan, ConvertReport } from './types.ts'

const NAME = 'answer'
/** What the stages before have told; these two are run again. */
const AGAIN = new Set(['inspect', 'describe'])

interface Ready {
  /** each file of the answer: where it lies in the answer's folder, and where it goes when there will be no answer */
  files: { path: string; aside: string }[]
  told: Pick<ConvertReport, 'disks' | 'artifacts' | 'warnings' | 'stages' | 'fix' | 'guest' | 'guest_error'>
  /** a VM of an earlier attempt may have run on them: they are of no use to another job */
  used?: boolean
}

/** MUST be durable before a VM is started on the disks. */
export async function recordReady(plan: ConvertPlan, targets: readonly Target[], report: ConvertReport): Promise<void> {
  const { disks, artifacts, warnings, stages, fix, guest, guest_error } = report
  const told = {
    disks,
    artifacts,
    warnings: warnings.filter((w) => !AGAIN.has(w.stage)),
    stages: stages.filter((s) => !AGAIN.has(s.name) && s.success),
    ...(fix ? { fix } : {}),
    ...(guest ? { guest } : {}),
    ...(guest_error === undefined ? {} : { guest_error }),
  }
  const files = artifacts.map((a) => ({
    path: a.path,
    aside: targets.find((t) => t.final === a.path)?.file ?? `copy/${a.disk_id}.pointer.${a.format}`,
  }))
  await syncFile(plan.dir)
  await writeReady(plan, targets, { files, told })
}

async function writeReady(plan: ConvertPlan, targets: readonly Target[], ready: Ready): Promise<void> {
  const result = ready as unknown as Record<string, unknown>
  await recordStep(plan.scratch, { schema: 1, step: 'define', name: NAME, key: keyOf(plan, targets), result })
}

/**
 * Takes over the finished disks of a dead attempt, into `plan.dir`, and what the stages that made them have told. Nothing is looked at but
 * that all are there: they were durable and checked before the record was written.
 */
export async function adoptReady(
  plan: ConvertPlan,
  targets: readonly Target[],
): Promise<{ told: Ready['told']; from: string } | undefined> {
  const answer = answerFolder(plan)
  if (answer === undefined) return undefined
  const attempts = plan.earlier.filter((e) => e.dead && e.before === undefined)
  for (const e of attempts) {
    const record: StepRecord | undefined = await readStep(e.dir, 'define', NAME)
    if (!record?.result || record.key !== keyOf(plan, targets)) continue
    const ready = record.result as unknown as Ready
    if (ready.used && e.other) continue
    const found: { from: string; to: string }[] = []
    for (const f of ready.files) {
      // an adoption that was cut off left some with the attempt before
      const places = attempts.flatMap((x) => [join(x.dir, answer, f.path), join(x.dir, f.aside)])
      const from = (await Promise.all(places.map(async (p) => ((await isFile(p)) ? p : undefined)))).find((p) => p)
      if (from !== undefined) found.push({ from, to: join(plan.dir, f.path) })
    }
    if (found.length !== ready.files.length) continue
    await writeReady(plan, targets, { ...ready, ...(e.other ? {} : { used: true }) })
    for (const { from, to } of found) {
      await mkdir(dirname(to), { recursive: true })
      await rename(from, to)
      await syncFile(dirname(to))
    }
    const artifacts = await Promise.all(ready.told.artifacts.map((a) => measured(plan, a)))
    return { told: { ...ready.told, artifacts }, from: e.dir }
  }
  return undefined
}

/** There will be no answer: a failed job's holds no disk. They go where a later attempt finds them. */
export async function putAside(plan: ConvertPlan): Promise<void> {
  const ready = (await readStep(plan.scratch, 'define', NAME))?.result as Ready | undefined
  for (const f of ready?.files ?? []) {
    const to = join(plan.scratch, f.aside)
    await mkdir(dirname(to), { recursive: true })
    await rename(join(plan.dir, f.path), to)
    await syncFile(dirname(to))
  }
  await rm(join(plan.dir, `${plan.name}.disks`), { recursive: true, force: true })
}

/** Whether what lies in an attempt's folder may be handed to another job. */
export async function usedByVm(dir: string): Promise<boolean> {
  return ((await readStep(dir, 'define', NAME))?.result as Ready | undefined)?.used === true
}

async function measured(plan: ConvertPlan, a: Artifact): Promise<Artifact> {
  const s = await stat(join(plan.dir, a.path))
  return { ...a, size_bytes: s.size, allocated_bytes: s.blocks * 512 }
}

function keyOf(plan: ConvertPlan, targets: readonly Target[]): string {
  const made = targets.map((t) => [t.final, copyKey(plan, t)])
  const how = [plan.fix?.key ?? null, plan.output.poll_name, plan.output.checksum]
  return createHash('sha256')
    .update(JSON.stringify([made, how]))
    .digest('hex')
}

/** `plan.dir` relative to `plan.scratch`, as in every attempt. */
function answerFolder(plan: ConvertPlan): string | undefined {
  return plan.dir.startsWith(`${plan.scratch}/`) ? plan.dir.slice(plan.scratch.length + 1) : undefined
}

async function isFile(path: string): Promise<boolean> {
  return stat(path).then(
    (s) => s.isFile(),
    () => false,
  )
}
