import { createHash } from 'node:crypto'
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { ImageError } from '../../images/index.ts'
import { adoptStep, recordStep } from '../artefacts.ts'
import type { DiskCopy } from '../targets.ts'
import type { ConvertHooks, ConvertPlan } from '../types.ts'
import { openAppliance } from './appliance.ts'
import { addDisks, guestInfoOf, onePerDisk } from './inspector.ts'
import { needTool, NotPossible } from './programs.ts'
import { runGuestTool } from './run-tool.ts'
import { mergeState, toolSettings } from './stage.ts'
import type { GuestInfo } from './types.ts'

const NAME = 'guest'

/**
 * Which system the disks hold, by virt-inspector on the finished copies, read-only. It is information: what goes wrong is told and ends no job.
 * @throws the signal's reason, and what may pass (no-space, stalled)
 */
export async function inspectGuest(
  plan: ConvertPlan,
  hooks: ConvertHooks,
  copies: readonly DiskCopy[],
): Promise<{ guest: GuestInfo } | { error: string }> {
  const disks = onePerDisk(copies)
  const key = createHash('sha256')
    .update(JSON.stringify(disks.map((d) => [d.disk.id, d.record.key])))
    .digest('hex')
  const found = await adoptStep(plan.scratch, plan.earlier, { step: 'guest-info', name: NAME, key })
  if (found) {
    hooks.log('agent', `guest-info: took over what an earlier attempt had found out (from ${found.from})\n`)
    return { guest: found.record.result as unknown as GuestInfo }
  }
  for (const c of disks)
    if (await mergeState(plan, c))
      return { error: 'The disks are merged with their fix already, and what they held before was not recorded.' }
  const dir = join(plan.scratch, 'guest-info')
  const logs = plan.logs_dir ?? dir
  try {
    const program = await needTool('virt-inspector')
    await mkdir(dir, { recursive: true })
    const appliance = await openAppliance(toolSettings(plan), logs)
    try {
      const files = disks.map((d) => ({ path: join(plan.scratch, d.record.file), format: d.format }))
      const { stdout } = await runGuestTool([program, ...addDisks(files), '--no-applications', '--no-icon'], {
        plan,
        hooks,
        appliance,
        cwd: dir,
        outputs: [],
        log: join(logs, 'virt-inspector.log'),
        phase: 'guest-info',
        what: 'look into the disks',
        data: true,
      })
      const guest = guestInfoOf(stdout)
      await recordStep(plan.scratch, { schema: 1, step: 'guest-info', name: NAME, key, result: { ...guest } })
      return { guest }
    } finally {
      await appliance.close()
      await rm(dir, { recursive: true, force: true })
    }
  } catch (e) {
    if (hooks.signal.aborted) throw hooks.signal.reason
    if (e instanceof NotPossible) return { error: `${e.message} ${e.hint}` }
    if (e instanceof ImageError && !e.transient) return { error: e.message }
    throw e
  }
}
