import { mkdir, mkdtemp, rename, rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { qemuImg } from '../images/index.ts'
import type { DiskCopy, Target } from './copy.ts'
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
  for (const c of copies) {
    const t = targets.find((x) => x.file === c.record.file)!
    const to = join(plan.dir, t.final)
    await mkdir(dirname(to), { recursive: true })
    await rename(join(plan.scratch, c.record.file), to)
    artifacts.push(
      await describe(
        plan,
        c.disk,
        t.final,
        c.format,
        t.file.endsWith('.poll.qcow2')
          ? `the ${plan.output.format} image again, for clients that wait for a .qcow2`
          : undefined,
      ),
    )
  }
  const boot = copies.find((c) => c.disk.boot)
  if (plan.output.format === 'raw' && plan.output.poll_name && boot) {
    const final = `${plan.name}.qcow2`
    await writePointer(plan, hooks, boot.disk.info.virtual_size, final)
    artifacts.push(
      await describe(plan, boot.disk, final, 'qcow2', `a small qcow2 whose external data file is ${plan.name}.raw`),
    )
  }
  return artifacts
}

/**
 * A qcow2 without data of its own: its external data file is `<name>.raw` beside it. qemu-img would create that file anew, so the
 * qcow2 is made in a folder where the data file is a stand-in.
 */
async function writePointer(plan: ConvertPlan, hooks: ConvertHooks, size: number, final: string): Promise<void> {
  const folder = await mkdtemp(join(plan.scratch, 'pointer-'))
  try {
    // "./" keeps a name with a colon from being read as a protocol; commas are doubled in qemu's option syntax
    const raw = plan.name.includes(':') ? `./${plan.name}.raw` : `${plan.name}.raw`
    const cluster = size > 64 * 2 ** 30 ? '2M' : '64k'
    const options = `data_file=${raw.replaceAll(',', ',,')},data_file_raw=on,cluster_size=${cluster}`
    await qemuImg(['create', '-q', '-f', 'qcow2', '-o', options, 'pointer', String(size)], {
      ...hooks,
      cwd: folder,
      phase: 'merge',
      what: `create ${final}`,
    })
    await rename(join(folder, 'pointer'), join(plan.dir, final))
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
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
