import type { DiskCopy } from '../targets.ts'
import type { ConvertHooks, ConvertPlan, ConvertReport } from '../types.ts'
import { inspectGuest } from './guest-info.ts'
import { mergeFixes } from './merge.ts'
import { fixGuest } from './stage.ts'

/** The steps between copy and validate: guest-info, fix, merge; each only when it is asked for. */
export async function guestSteps(
  plan: ConvertPlan,
  hooks: ConvertHooks,
  copies: readonly DiskCopy[],
  report: ConvertReport,
  step: <T>(name: string, work: () => Promise<T>) => Promise<T>,
): Promise<void> {
  const warn = (stage: string, message: string): void =>
    void report.warnings.push({ stage, message, timestamp: new Date().toISOString() })
  if (plan.guest_info) {
    const found = await step('guest-info', () => inspectGuest(plan, hooks, copies))
    if ('guest' in found) report.guest = found.guest
    else {
      report.guest_error = found.error
      warn('inspect', `The guest was not inspected: ${found.error}`)
    }
  }
  if (!plan.fix) return
  const fixed = await step('fix', () => fixGuest(plan, hooks, copies, (m) => warn('fix', m)))
  if (!fixed) return
  report.fix = fixed
  for (const m of [...fixed.not_offered, ...fixed.warnings]) warn('fix', m)
  await step('merge', () => mergeFixes(plan, hooks, copies, fixed))
}
