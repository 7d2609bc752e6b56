import { runAction, type VmParts } from './action.ts'
import { notHere } from './boot.ts'
import { halt } from './halt.ts'
import { knownRecord } from './known.ts'
import { bringUp, type StartOptions } from './start.ts'
import type { StopOptions } from './stop.ts'
import type { VmHooks, VmOrder, VmResult } from './types.ts'

/** Stops a VM and starts it; one that does not run is started. An attempt that goes on after the stop does not stop it again. @throws VmError */
export async function restartVm(
  parts: VmParts,
  order: VmOrder,
  name: string,
  o: StartOptions & StopOptions,
  hooks: VmHooks,
): Promise<VmResult> {
  return runAction(parts, { action: 'restart', order, name, hooks, first: 'stop' }, async (a) => {
    const known = await knownRecord(a)
    if (!known) return notHere(a)
    const record = await a.begin((r) => ({ ...(r ?? known), desired: 'running' }))
    const { doing, last } = a.before ?? {}
    if (last?.job === order.job && last.outcome === 'done') {
      return { summary: `The VM "${name}" was restarted by an earlier attempt of this job.` }
    }
    const wasStopped = doing?.job === order.job && (doing.phase === 'start' || doing.phase === 'address')
    if (!wasStopped) {
      await a.phase('stop', 'stops the guest')
      await halt(a, o)
    }
    return bringUp(a, record, o)
  })
}
