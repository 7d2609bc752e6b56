/**
 * What an entry becomes by what is seen of its domain. Pure: the same entry and sight give the same answer, however often it is asked.
 *
 * Who may decide what a VM should be: an action (through a job), the guest (it powers itself off), and the host's admin (virsh). A host that
 * goes down, a guest or daemon that crashes decide nothing: afterwards the VM is to be what it was to be before.
 */
import { isDeepStrictEqual } from 'node:util'
import type { DomainState } from '../libvirt/index.ts'
import type { Drift } from './drift.ts'
import { vmStateOf } from './state.ts'
import type { VmRecord } from './types.ts'

/** What was seen: of libvirt, the files, and the jobs. */
export interface Sight {
  at: string
  /** undefined: libvirt has no such domain */
  domain: { name: string; state: DomainState } | undefined
  /** a domain that is not ours has the VM's name */
  foreign?: { uuid: string }
  missing_files: readonly string[]
  /** of this host */
  boot_id: string
  /** the host is going down: guests stop because of that */
  host_stops: boolean
  /** whether the job of `doing` is over or gone; asked only when there is one */
  job_over: boolean
  /** whether any job on this VM is under way or waits */
  busy: boolean
}

export interface Judgement {
  /** the entry as it should be; undefined: nothing is left of the VM */
  record: VmRecord | undefined
  drift: Drift[]
  /** it should run, and nothing else will start it */
  start: boolean
  /** when it may be started again, ms since 1970 */
  due?: number
  /** what was decided, for the log */
  notes: string[]
}

/** Stops that somebody wanted. The others (unknown, crashed, failed, daemon) happened to it. */
const WANTED = new Set(['shutdown', 'destroyed', 'saved', 'migrated', 'from_snapshot'])
/** After so long on its feet, in ms, a VM no longer counts as one that dies at once. */
const STEADY_MS = 10 * 60_000
/** After so long, in ms, it is looked at again whether a job has started it. */
const BUSY_MS = 3_000
/** Waits before each start of a VM that keeps dying, in ms; then it is left alone. */
const START_WAITS_MS = [0, 10_000, 60_000, 300_000, 900_000]

export function judge(r: VmRecord, s: Sight): Judgement {
  const notes: string[] = []
  const drift: Drift[] = []
  const add = (kind: Drift['kind'], message: string): void => void drift.push({ name: r.name, kind, message })
  let record = withState(r, s)

  if (record.doing) {
    if (!s.job_over) return { record, drift, start: false, notes }
    const nothing = !s.domain && s.missing_files.length === filesOf(record).length
    if (nothing && (record.doing.action === 'create' || record.desired === 'deleted')) {
      notes.push(`"${record.doing.action}" of job ${record.doing.job} was never ended, and nothing is there of it`)
      return { record: undefined, drift, start: false, notes }
    }
    const ended = endedAction(record, s)
    if (ended === undefined) {
      const { action, job, since, phase } = record.doing
      add(
        'stale-doing',
        `The VM "${r.name}" is half-way through "${action}" (phase ${phase}, since ${since}), and its job ${job} is over. ` +
          (action === 'delete' || record.desired === 'deleted'
            ? 'Delete it again to finish that.'
            : 'Give it the same job again to finish it, or delete the VM.'),
      )
      return { record, drift, start: false, notes }
    }
    notes.push(
      `"${record.doing.action}" of job ${record.doing.job} was never ended, and is over now; it should be ${ended.desired}`,
    )
    record = ended
  }

  if (record.desired === 'deleted') {
    if (!s.domain && s.missing_files.length === filesOf(record).length) {
      notes.push('its deletion had been interrupted, and nothing is left of it')
      return { record: undefined, drift, start: false, notes }
    }
    add(
      'should-be-gone',
      `The VM "${r.name}" was to be deleted, and ${s.domain ? 'its domain' : 'its disk'} is still there. Delete it again.`,
    )
    return { record, drift, start: false, notes }
  }
  if (s.missing_files.length > 0) {
    add(
      'missing-disk',
      `The VM "${r.name}" has lost ${s.missing_files.join(' and ')}. Bring it back, or delete the VM.`,
    )
  }
  if (!s.domain) {
    const other = s.foreign
    if (other) {
      add(
        'foreign-domain',
        `libvirt has a domain "${r.name}" (${other.uuid}) that is not the VM of this instance; it is not touched. Rename or remove one of the two.`,
      )
    } else {
      add(
        'missing-domain',
        `libvirt (${r.uri}) has no domain for the VM "${r.name}" (${r.uuid}). Create it again, which uses the disks that are there, or delete it.`,
      )
    }
    return { record, drift, start: false, notes }
  }
  if (s.domain.name !== r.name) {
    add(
      'renamed',
      `The domain of the VM "${r.name}" is called "${s.domain.name}" now. Give it its name back (virsh domrename), or delete the VM.`,
    )
  }

  if (record.state === 'running') {
    if (record.desired === 'stopped') {
      add(
        'running-but-should-not',
        `The VM "${r.name}" runs, and it was last stopped: somebody else started it. Start or stop it by a job to say which is right.`,
      )
    } else if (record.starts && Date.parse(s.at) - Date.parse(record.state_at) > STEADY_MS) {
      const { starts: _, ...rest } = record
      record = rest
    }
    return { record: { ...record, boot_id: s.boot_id }, drift, start: false, notes }
  }
  if (record.desired !== 'running') return { record, drift, start: false, notes }
  if (record.state !== 'stopped') {
    if (!s.busy)
      add(
        'not-running',
        `The VM "${r.name}" should run and is ${record.state} (${s.domain.state.reason}). Look at it with virsh, resume it there, or restart it.`,
      )
    return { record, drift, start: false, notes }
  }

  const { reason } = s.domain.state
  if (WANTED.has(reason)) {
    // a host that goes down asks its guests to stop: they are to run again when it is back
    if (s.host_stops) return { record, drift, start: false, notes }
    notes.push(`it was stopped (${reason}) by its guest or by somebody else than vmspool, so it should be stopped now`)
    return { record: { ...record, desired: 'stopped' }, drift, start: false, notes }
  }
  if (!record.autostart && record.boot_id !== undefined && record.boot_id !== s.boot_id) {
    notes.push('the host was started anew, and it is not one to start with the host (autostart)')
    return { record: { ...record, desired: 'stopped' }, drift, start: false, notes }
  }
  if (s.missing_files.length > 0 || s.domain.name !== r.name || s.host_stops)
    return { record, drift, start: false, notes }
  // a job that fails to start it makes no event
  if (s.busy) return { record, drift, start: false, due: Date.parse(s.at) + BUSY_MS, notes }
  return startOrNot(record, s, drift, notes)
}

function startOrNot(record: VmRecord, s: Sight, drift: Drift[], notes: string[]): Judgement {
  const { starts } = record
  const done = starts?.count ?? 0
  if (done >= START_WAITS_MS.length) {
    drift.push({
      name: record.name,
      kind: 'not-running',
      message: `The VM "${record.name}" should run; it was started ${done} times, the last time at ${starts?.at}, and died each time, so it is not started any more. Look at its serial log and at /var/log/libvirt/qemu/${record.name}.log, then start it.`,
    })
    return { record, drift, start: false, notes }
  }
  const due = done === 0 ? 0 : Date.parse(starts!.at) + START_WAITS_MS[done]!
  if (Date.parse(s.at) < due) {
    drift.push({
      name: record.name,
      kind: 'not-running',
      message: `The VM "${record.name}" should run and died soon after it was started (${done} times); it is started again at ${new Date(due).toISOString()}.`,
    })
    return { record, drift, start: false, due, notes }
  }
  return { record, drift, start: true, notes }
}

/** The entry of a VM that is being started by us once more. */
export function withStart(r: VmRecord, at: string): VmRecord {
  return { ...r, starts: { count: (r.starts?.count ?? 0) + 1, at } }
}

/** The state as seen; `state_at` is since when. */
function withState(r: VmRecord, s: Sight): VmRecord {
  const state = s.domain ? vmStateOf(s.domain.state) : 'missing'
  const state_reason = s.domain?.state.reason ?? 'undefined'
  if (r.state === state && r.state_reason === state_reason) return r
  const since = r.state === state ? r.state_at : s.at
  return {
    ...r,
    state,
    state_reason,
    state_at: since,
    addresses: state === 'running' || state === 'paused' ? r.addresses : [],
  }
}

/**
 * The end of an action whose job is over. Of start, stop and restart what is seen tells how far it came, and the rest is what the VM was to
 * be before; what makes or removes a VM is not taken for done.
 */
function endedAction(r: VmRecord, s: Sight): VmRecord | undefined {
  const { doing, ...rest } = r
  if (!doing || r.desired === 'deleted' || !s.domain) return undefined
  const was = doing.was === 'stopped' ? 'stopped' : 'running'
  const runs = r.state === 'running' || r.state === 'paused'
  let desired: VmRecord['desired']
  switch (doing.action) {
    case 'start':
      desired = runs ? 'running' : (doing.was ?? 'stopped')
      break
    case 'stop':
      desired = runs ? was : 'stopped'
      break
    case 'restart':
      desired = runs ? 'running' : was
      break
    default:
      return undefined
  }
  const { action, job, epoch } = doing
  const message = 'It was interrupted, and its job is over.'
  return { ...rest, desired, last: { action, job, epoch, outcome: 'failed', at: s.at, message } }
}

/** What must lie on the disk for it to run. */
export function filesOf(r: VmRecord): string[] {
  return [
    ...r.disks.flatMap((d) => (d.base ? [d.path, d.base.path] : [d.path])),
    ...(r.seed === undefined ? [] : [r.seed]),
  ]
}

/**
 * Puts what was judged into the entry as it is now.
 * @returns undefined when somebody has begun something with the VM since: it is judged anew in the next pass
 */
export function applied(now: VmRecord, before: VmRecord, after: VmRecord): VmRecord | undefined {
  if (!isDeepStrictEqual([now.order, now.doing, now.desired], [before.order, before.doing, before.desired]))
    return undefined
  const next: Record<string, unknown> = { ...now }
  for (const key of new Set([...Object.keys(before), ...Object.keys(after)]) as Set<keyof VmRecord>) {
    if (isDeepStrictEqual(before[key], after[key])) continue
    if (after[key] === undefined) delete next[key]
    else next[key] = after[key]
  }
  return next as unknown as VmRecord
}
