/** Which jobs are shown, and in which order. */
import type { JobStateName, JobStatus } from '../../client/status.ts'

export interface Filter {
  label: string
  test(s: JobStatus): boolean
}

const ended: ReadonlySet<JobStateName> = new Set(['succeeded', 'failed', 'cancelled', 'rejected'])
const killed = (s: JobStatus): boolean => s.state === 'cancelled' || (ended.has(s.state) && s.signal !== undefined)

/** Ghost's four, in its order: what ended by itself has exited, what was ended was killed. */
export const ghostFilters: readonly Filter[] = [
  { label: 'All', test: () => true },
  { label: 'Running', test: (s) => s.state === 'running' },
  { label: 'Exited', test: (s) => ended.has(s.state) && !killed(s) },
  { label: 'Killed', test: killed },
]

/** By state, each with the key that chooses it. */
export const stateFilters: readonly { key: string; filter: Filter }[] = [
  { key: 'a', filter: ghostFilters[0]! },
  { key: 'u', filter: { label: 'unfinished', test: (s) => !ended.has(s.state) } },
  ...(
    [
      ['q', 'queued'],
      ['h', 'held'],
      ['r', 'running'],
      ['t', 'retrying'],
      ['s', 'succeeded'],
      ['f', 'failed'],
      ['c', 'cancelled'],
      ['x', 'rejected'],
    ] as const
  ).map(([key, state]) => ({ key, filter: { label: state, test: (s: JobStatus) => s.state === state } })),
]

export interface Order {
  label: string
  /** without it: by id, which is the order of acceptance */
  of?(s: JobStatus): string | number
  /** whether the largest comes first, as long as nobody turns it round */
  down: boolean
}

export const orders: readonly Order[] = [
  { label: 'newest', down: true },
  { label: 'name', of: (s) => s.name, down: false },
  { label: 'status', of: (s) => s.state, down: false },
  { label: 'kind', of: (s) => s.kind, down: false },
  { label: 'duration', of: durationOf, down: true },
  { label: 'end', of: (s) => (s.finished_at === undefined ? 0 : Date.parse(s.finished_at)), down: true },
]

function durationOf(s: JobStatus): number {
  if (s.started_at === undefined) return 0
  return (s.finished_at === undefined ? Date.now() : Date.parse(s.finished_at)) - Date.parse(s.started_at)
}

/**
 * @param ids newest first
 * @returns those that pass the filter, in that order; the very array when nothing is to be done
 */
export function selection(
  ids: readonly string[],
  statusOf: (id: string) => JobStatus | undefined,
  filter: Filter,
  order: Order,
  turned: boolean,
): readonly string[] {
  const all = filter.label === 'All'
  const down = order.down !== turned
  if (all && order.of === undefined) return down ? ids : ids.toReversed()
  const kept: { id: string; key: string | number }[] = []
  const unread: string[] = []
  for (const id of ids) {
    const s = statusOf(id)
    if (s === undefined) {
      if (all) unread.push(id)
    } else if (filter.test(s)) kept.push({ id, key: order.of?.(s) ?? 0 })
  }
  if (order.of === undefined) return down ? kept.map((k) => k.id) : kept.map((k) => k.id).reverse()
  // Equal ones stay newest first, whichever way it is turned.
  kept.sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0) * (down ? -1 : 1))
  return [...kept.map((k) => k.id), ...unread]
}
