import type { VmRecord } from '../vm/index.ts'

/** How many VMs there are in each state; those that there are none of are named, too. */
export function countStates(records: readonly VmRecord[]): Record<string, number> {
  const states: Record<string, number> = { running: 0, stopped: 0, paused: 0, error: 0, missing: 0, unknown: 0 }
  for (const r of records) states[r.state] = (states[r.state] ?? 0) + 1
  return states
}
