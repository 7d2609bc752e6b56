/** What a create that failed has made goes away again, all of it, and what could not be removed is said. */
import type { Action } from './action.ts'
import { asVmError } from './errors.ts'
import { halt } from './halt.ts'
import { contentOf, giveBackAddresses, removeFiles, undefineDomain } from './remove.ts'
import { VmError, type VmRecord } from './types.ts'

/** Of an action that has not come to its end: `a` has a signal of its own here. @returns the sentence about it */
export async function rollBack(a: Action, error: unknown): Promise<string> {
  // it was made by an earlier job, and only its domain was to be made again
  const { last } = a.before ?? {}
  if (last?.outcome === 'done' && last.job !== a.order.job)
    return 'The disks of the VM, which were there before, are as they were.'
  const why = error instanceof Error ? error.message : String((error as { message?: unknown })?.message ?? error)
  a.hooks.log('agent', `rolls back: ${why}\n`)
  try {
    // from here on a crash leaves something that is to go, not something that is to be finished
    const record = await a.change((r) => ({ ...r, desired: 'deleted' }))
    await a.phase('roll-back', 'removes what was made')
    const removed = await clear(a, record)
    await a.parts.registry.update(a.name, (r) =>
      r?.order.job === a.order.job && r.order.epoch === a.order.epoch ? undefined : r,
    )
    const said =
      removed.length === 0
        ? 'Nothing had been made.'
        : `Nothing is left of the VM: ${list(removed)} ${removed.length === 1 && removed[0] !== DISKS ? 'was' : 'were'} removed.`
    a.hooks.log('agent', `${said}\n`)
    return said
  } catch (e) {
    const failure = asVmError(e, { name: a.name, phase: 'roll-back' })
    if (failure instanceof VmError && failure.code === 'vm-superseded')
      return 'What was made now belongs to a later job.'
    const left = await contentOf(a.folder)
    const said = `What was made could not all be removed: ${String((failure as Error)?.message ?? failure)} Left over: the entry in the registry${left.length === 0 ? '' : `, ${left.join(', ')}`}, perhaps the domain. "vmspool vm delete ${a.name}" removes it.`
    a.hooks.log('agent', `${said}\n`)
    return said
  }
}

/** What an earlier job or attempt left is removed before something new is made in its place. */
export async function clearAway(a: Action, left: VmRecord): Promise<void> {
  a.say('removes what an attempt that failed has left')
  const removed = await clear(a, left)
  if (removed.length > 0) a.hooks.log('agent', `removed ${list(removed)}, left by job ${left.order.job}\n`)
}

const DISKS = 'the disks'

/** @returns what there was */
async function clear(a: Action, record: VmRecord): Promise<string[]> {
  const removed: string[] = []
  const domain = await a.act(`to remove what is there of the VM "${a.name}"`, async (_, d) => d)
  if (domain) {
    await halt(a, { force: true, grace_ms: 0 })
    await undefineDomain(a)
    await giveBackAddresses(a, record)
    removed.push('the domain')
  }
  await a.fence()
  const files = await contentOf(a.folder)
  await removeFiles(a, record)
  if (files.some((f) => f.endsWith('/seed.iso'))) removed.push('the seed')
  if (files.some((f) => !f.endsWith('/seed.iso'))) removed.push(DISKS)
  return removed
}

function list(parts: readonly string[]): string {
  return parts.length < 2 ? parts.join('') : `${parts.slice(0, -1).join(', ')} and ${parts.at(-1)}`
}
