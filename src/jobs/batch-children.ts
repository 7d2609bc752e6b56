/** The VMs of a batch while it runs, and what is told of them. */
import type { BatchManifest, BatchVm } from '../manifest/index.ts'
import { childUlid, type Counts, type JobStatus } from '../spool/index.ts'
import type { ChildLook } from './family.ts'

type EndState = 'succeeded' | 'failed' | 'cancelled' | 'rejected' | 'not_run' | 'skipped'

export interface Child {
  vm: BatchVm
  /** the job that it becomes, or that did it before */
  job: string
  /** unknown: it may exist; waiting: it does not; open: it is a job */
  state: 'unknown' | 'waiting' | 'open' | EndState
  name?: string
  reason?: string
  status?: JobStatus
  /** of an ended job: what is told of its result (a batch may have ten thousand) */
  ended?: { duration_ms?: number; exit_code?: number; bytes: number }
  /** monotonic, ms: when its result was first seen */
  seenAt?: number
  cancelled?: boolean
  /** how often its manifest could not be read just now, and when it is tried again (monotonic, ms) */
  tries: number
  again?: number
}

/** All VMs in the order of starting: priority, lower first, then index. */
export function childrenOf(m: BatchManifest, id: string, mayExist: boolean): Child[] {
  const order = (m.vms as BatchVm[]).map((vm, index) => ({ vm, index }))
  order.sort((a, b) => a.vm.priority - b.vm.priority || a.index - b.index)
  return order.map(({ vm }, place) => ({
    vm,
    job: childUlid(id, place),
    state: !vm.enabled ? 'skipped' : mayExist ? 'unknown' : 'waiting',
    tries: 0,
    ...(vm.enabled ? {} : { reason: 'It is disabled in the batch.' }),
  }))
}

export const hasFailed = (c: Child): boolean =>
  c.state === 'failed' || c.state === 'cancelled' || c.state === 'rejected'

const FINAL = new Set(['succeeded', 'failed', 'cancelled', 'rejected'])
/** So long a published result waits for the status that says that its answer is in place; a stalled agent can write over that. */
const SETTLE_MS = 5_000

/** Takes in what was seen of an open child. */
export function note(child: Child, seen: ChildLook, now: number): void {
  if (seen.status) {
    child.status = seen.status
    child.name = seen.status.name
  }
  if (!seen.result) return
  child.seenAt ??= now
  if (!FINAL.has(seen.status?.state ?? '') && now - child.seenAt < SETTLE_MS) return
  const state = String(seen.result.state)
  child.state = FINAL.has(state) ? (state as EndState) : 'failed'
  child.name = String(seen.result.name)
  child.ended = endOf(seen.result)
  delete child.status
  const error = seen.result.error as { message?: string } | undefined
  if (child.state !== 'succeeded') child.reason = error?.message ?? `The job ended as ${state}.`
}

/** Duration, exit code, and the bytes of the disks that were converted. */
export function endOf(result: Record<string, unknown>): NonNullable<Child['ended']> {
  const { duration_ms, exit_code, disks, state } = result
  const converted = state === 'succeeded' && Array.isArray(disks) ? disks : []
  return {
    ...(typeof duration_ms === 'number' ? { duration_ms } : {}),
    ...(typeof exit_code === 'number' ? { exit_code } : {}),
    bytes: converted.reduce((n: number, d) => n + (Number(d?.virtual_size_bytes) || 0), 0),
  }
}

export function countsOf(children: readonly Child[]): Counts {
  const n = (test: (c: Child) => boolean): number => children.filter(test).length
  const running = n((c) => c.state === 'open' && c.status?.state === 'running')
  return {
    total: children.length,
    succeeded: n((c) => c.state === 'succeeded'),
    failed: n(hasFailed),
    running,
    queued: n((c) => c.state === 'open') - running,
    waiting: n((c) => c.state === 'waiting' || c.state === 'unknown'),
    not_run: n((c) => c.state === 'not_run'),
    skipped: n((c) => c.state === 'skipped'),
  }
}

/** How far the whole is: each VM counts the same, for how large those are that have not begun nobody knows. */
export function percentDone(children: readonly Child[]): number {
  const wanted = children.filter((c) => c.state !== 'skipped')
  if (wanted.length === 0) return 100
  const done = wanted.reduce((sum, c) => {
    if (c.state === 'open') return sum + (c.status?.progress?.percent ?? 0) / 100
    return sum + (c.state === 'waiting' || c.state === 'unknown' ? 0 : 1)
  }, 0)
  return Math.floor((1000 * done) / wanted.length) / 10
}

/** Bytes of disks that are converted, by jobs that ended and by those that run. */
export function bytesDone(children: readonly Child[]): number {
  return children.reduce(
    (sum, c) => sum + (c.state === 'open' ? (c.status?.progress?.bytes_done ?? 0) : (c.ended?.bytes ?? 0)),
    0,
  )
}

/** Ten thousand of these are still a file that is read in one piece. */
const LONGEST_REASON = 300

/** The VMs for the result, in their order in the manifest. */
export function told(m: BatchManifest, children: readonly Child[]): Record<string, unknown>[] {
  const byId = new Map(children.map((c) => [c.vm.id, c]))
  return (m.vms as BatchVm[]).map((vm) => {
    const c = byId.get(vm.id)!
    const reason =
      c.reason !== undefined && c.reason.length > LONGEST_REASON ? `${c.reason.slice(0, LONGEST_REASON)}…` : c.reason
    const { duration_ms, exit_code } = c.ended ?? {}
    return {
      id: vm.id,
      state: c.state,
      ...(c.name === undefined ? {} : { name: c.name }),
      ...(c.ended === undefined ? {} : { job: c.job }),
      ...(duration_ms === undefined ? {} : { duration_ms }),
      ...(exit_code === undefined ? {} : { exit_code }),
      ...(reason === undefined ? {} : { reason }),
    }
  })
}
