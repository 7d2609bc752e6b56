import { mkdir, rename, rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { qemuImg } from '../images/index.ts'
import type { DiskCopy, Target } from './targets.ts'
import type { SourceDisk } from './inspect.ts'
import type { Artifact, ConvertHooks, ConvertPlan } from './types.ts'

/** Under what name each disk is published: `<name>.<format>` for the boot disk, `<name>.disks/<id>.<format>` for others. */
export function targetsOf(plan: ConvertPlan, disks: readonly SourceDisk[]): Target[] {
  const format = plan.output.format
  const targets: Target[] = disks.map((disk) => ({
    disk,
    format,
    file: `copy/${disk.id}.${format}`,
    final: disk.boot ? `${plan.name}.${format}` : `${plan.name}.disks/${disk.id}.${format}`,
  }))
  const boot = disks.find((d) => d.boot)
  if (format === 'vdi' && plan.output.poll_name && boot) {
    targets.push({ disk: boot, format: 'qcow2', file: `copy/${boot.id}.poll.qcow2`, final: `${plan.name}.qcow2` })
  }
  return targets
}

/** Moves the copies to their names and writes what pollers wait for. Everything lies on one filesystem. */
export async function collectOutputs(
  plan: ConvertPlan,
  hooks: ConvertHooks,
  copies: readonly DiskCopy[],
): Promise<Artifact[]> {
  const artifacts: Artifact[] = []
  const targets = targetsOf(
    plan,
    copies.map((c) => c.disk),
  )
  const moved: { from: string; to: string }[] = []
  try {
    for (const c of copies) {
      const t = targets.find((x) => x.file === c.record.file)!
      const step = { from: join(plan.scratch, c.record.file), to: join(plan.dir, t.final) }
      await mkdir(dirname(step.to), { recursive: true })
      await rename(step.from, step.to)
      moved.push(step)
      const again = t.file.endsWith('.poll.qcow2')
      const note = again ? `the ${plan.output.format} image again, for clients that wait for a .qcow2` : undefined
      const described = await describe(plan, c.disk, t.final, c.format, note)
      artifacts.push(c.sha256 === undefined ? described : { ...described, sha256: c.sha256 })
    }
    await pointer(plan, hooks, copies, artifacts)
  } catch (e) {
    // a failed job's answer must hold no disk, and the copies are worth keeping for the next attempt
    for (const m of moved.reverse()) await rename(m.to, m.from)
    await rm(join(plan.dir, `${plan.name}.disks`), { recursive: true, force: true })
    throw e
  }
  return artifacts
}

async function pointer(
  plan: ConvertPlan,
  hooks: ConvertHooks,
  copies: readonly DiskCopy[],
  artifacts: Artifact[],
): Promise<void> {
  const boot = copies.find((c) => c.disk.boot)
  if (plan.output.format === 'raw' && plan.output.poll_name && boot) {
    const final = `${plan.name}.qcow2`
    await writePointer(plan, hooks, boot.disk.info.virtual_size, final)
    artifacts.push(
      await describe(
        plan,
        boot.disk,
        final,
        'qcow2',
        `a small qcow2 that shows ${plan.name}.raw, which must stay beside it`,
      ),
    )
  }
}

/**
 * A qcow2 without data of its own over `<name>.raw` beside it. qemu looks for a backing file beside the image, wherever both are moved
 * together, but for an external data file (`data_file`) in the opener's current folder (seen with 7.2), where no client would find it.
 */
async function writePointer(plan: ConvertPlan, hooks: ConvertHooks, size: number, final: string): Promise<void> {
  // "./" keeps a name with a colon from being read as a protocol
  const backing = `./${plan.name}.raw`
  const temp = join(plan.scratch, 'pointer.qcow2')
  const args = ['create', '-q', '-f', 'qcow2', '-u', '-b', backing, '-F', 'raw', 'pointer.qcow2', String(size)]
  await qemuImg(args, { ...hooks, cwd: plan.scratch, phase: 'merge', what: `create ${final}` })
  await rename(temp, join(plan.dir, final))
}

async function describe(
  plan: ConvertPlan,
  disk: SourceDisk,
  final: string,
  format: Artifact['format'],
  note: string | undefined,
): Promise<Artifact> {
  const s = await stat(join(plan.dir, final))
  return {
    path: final,
    disk_id: disk.id,
    format,
    size_bytes: s.size,
    allocated_bytes: s.blocks * 512,
    compressed: plan.output.compress && format === 'qcow2' && !final.endsWith('.raw') && plan.output.format !== 'raw',
    boot: disk.boot,
    boot_order_hint: disk.boot_order_hint,
    ...(note === undefined ? {} : { note }),
  }
}
