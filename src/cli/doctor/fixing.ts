/** Guest fixing: are its tools, a kernel for their appliance, and KVM there? */
import type { Config } from '../../config/index.ts'
import { type Finding, note, ok } from './types.ts'

/** @param config undefined when it cannot be read: the defaults are looked at then */
export async function checkFixing(config: Config | undefined): Promise<Finding> {
  const { fixingPossible } = await import('../../convert/index.ts')
  const { guestTools } = await import('../../jobs/convert-fix.ts')
  const r = await fixingPossible(guestTools(config))
  if (r.possible) return ok('guest-fixing', r.detail)
  const then = config?.fix.unavailable === 'fail' ? 'fail' : 'convert the disks as they are and warn'
  return note('guest-fixing', `Not possible here: ${r.detail} Jobs that ask for it ${then}.`, r.hint)
}
