import { type Action, type Done, runAction, seen, type VmParts } from './action.ts'
import { notHere } from './boot.ts'
import { type Halted, halt } from './halt.ts'
import { knownRecord } from './known.ts'
import type { VmHooks, VmOrder, VmRecord, VmResult } from './types.ts'

export interface StopOptions {
  /** pull the plug at once */
  force: boolean
  /** how long the guest may take before the plug is pulled */
  grace_ms: number
}

/** Stops a VM. One that does not run is left as it is. @throws VmError */
export async function stopVm(
  parts: VmParts,
  order: VmOrder,
  name: string,
  o: StopOptions,
  hooks: VmHooks,
): Promise<VmResult> {
  return runAction(parts, { action: 'stop', order, name, hooks, first: 'stop' }, async (a) => {
    const known = await knownRecord(a)
    if (!known) return notHere(a)
    await a.begin((r) => ({ ...(r ?? known), desired: 'stopped' }))
    const goesOnHere = a.before?.doing?.job === order.job
    return stopped(a, await halt(a, o), goesOnHere)
  })
}

async function stopped(a: Action, how: Halted, goesOnHere: boolean): Promise<Done> {
  const record = (await a.parts.registry.get(a.name)) as VmRecord
  const now = await seen(a, record)
  const unchanged = how === 'off' && !goesOnHere
  return {
    summary: unchanged ? `The VM "${a.name}" is stopped already.` : `The VM "${a.name}" was stopped${BY[how]}.`,
    ...(unchanged ? { unchanged } : {}),
    entry: (r) => ({
      ...r,
      addresses: [],
      state: now.state,
      state_reason: now.state_reason,
      state_at: now.state_at,
    }),
  }
}

const BY: Record<Halted, string> = {
  off: '',
  'power button': ': the guest shut down when it was asked to',
  agent: ': its agent shut it down',
  'plug pulled': ' by pulling the plug',
}
