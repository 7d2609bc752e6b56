import { type Action, type Done, runAction, seen, type VmParts } from './action.ts'
import { awaitAddress, boot, notHere, promised } from './boot.ts'
import { runs } from './halt.ts'
import { knownRecord } from './known.ts'
import type { VmHooks, VmOrder, VmRecord, VmResult } from './types.ts'

export interface StartOptions {
  /** 0: do not wait */
  address_timeout_ms: number
}

/** Starts a VM, and waits for its address. One that runs is left as it is. @throws VmError */
export async function startVm(
  parts: VmParts,
  order: VmOrder,
  name: string,
  o: StartOptions,
  hooks: VmHooks,
): Promise<VmResult> {
  return runAction(parts, { action: 'start', order, name, hooks, first: 'start' }, async (a) => {
    const known = await knownRecord(a)
    if (!known) return notHere(a)
    const record = await a.begin((r) => ({ ...(r ?? known), desired: 'running' }))
    return bringUp(a, record, o)
  })
}

/** The part that start and restart share. */
export async function bringUp(a: Action, record: VmRecord, o: StartOptions): Promise<Done> {
  await a.phase('start', 'starts the guest')
  const goesOnHere = a.before?.doing?.job === a.order.job
  // one that runs has what it needs
  const room = (await runs(a)) ? undefined : await promised(a, record, 0)
  const started = await boot(a, record).finally(() => room?.[Symbol.asyncDispose]())
  if (!started && !goesOnHere) {
    const now = await seen(a, record)
    return {
      summary: `The VM "${a.name}" runs already.`,
      unchanged: true,
      entry: (r) => ({ ...r, state: now.state, state_reason: now.state_reason, state_at: now.state_at }),
    }
  }
  const addresses = await awaitAddress(a, record, o.address_timeout_ms)
  const now = await seen(a, record)
  const where = addresses.length > 0 ? ` Its address is ${addresses.join(', ')}.` : ''
  return {
    summary: `The VM "${a.name}" was ${a.action === 'restart' ? 'restarted' : 'started'}.${where}`,
    entry: (r) => ({
      ...r,
      addresses,
      state: now.state,
      state_reason: now.state_reason,
      state_at: now.state_at,
    }),
  }
}
