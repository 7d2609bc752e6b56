/**
 * What all actions on a VM have in common: their turn, their intent in the registry before anything is changed, the fence before each
 * change, phases with their times, and an end that says what became of it.
 */
import { join } from 'node:path'
import type { Session } from '../libvirt/index.ts'
import type { Logger } from '../observe/index.ts'
import type { Admission } from './admission.ts'
import { asVmError } from './errors.ts'
import { checkEntry, checkLater, checkMaker, domainOf, type OwnDomain, ownDomain, superseded } from './fence.ts'
import type { ImageStore } from './images/index.ts'
import type { VmLink } from './link.ts'
import type { VmLocks } from './lock.ts'
import type { Registry } from './registry.ts'
import { vmStateOf } from './state.ts'
import {
  VmError,
  type VmAction,
  type VmHooks,
  type VmOrder,
  type VmPhase,
  type VmRecord,
  type VmResult,
} from './types.ts'

/** What a service is made of. */
export interface VmParts {
  instance: string
  host: string
  /** of the VMs, absolute */
  dir: string
  log: Pick<Logger, 'info' | 'warn' | 'error'>
  registry: Registry
  link: VmLink
  images: ImageStore
  admission: Admission
  locks: VmLocks
}

export interface Action {
  readonly parts: VmParts
  readonly action: VmAction
  readonly order: VmOrder
  readonly name: string
  /** of its disks */
  readonly folder: string
  readonly hooks: VmHooks
  readonly warnings: string[]
  /** the entry as it was before this action, or an earlier attempt of it, began */
  readonly before: VmRecord | undefined
  /** Ends one phase and begins the next. The registry notes it: after a crash it tells how far this came. */
  phase(phase: VmPhase, message?: string): Promise<void>
  /** more about the phase that is */
  say(message: string, p?: { bytes_done?: number; bytes_total?: number; percent?: number }): void
  warn(message: string): void
  /**
   * MUST come before anything is changed: makes the entry this action's own. Refused when a later attempt was here.
   * `f` gives the entry as it is to be; order and doing are filled in.
   */
  begin(f: (r: VmRecord | undefined) => VmRecord): Promise<VmRecord>
  /** Changes the entry, if it still is this action's. */
  change(f: (r: VmRecord) => VmRecord): Promise<VmRecord>
  /** Asks libvirt; `fn` may run more than once. `what` begins with "to". */
  ask<T>(what: string, fn: (s: Session) => Promise<T>): Promise<T>
  /** Changes something through libvirt, if the VM still is this action's; `fn` gets the domain as it is, and may run more than once. */
  act<T>(what: string, fn: (s: Session, d: OwnDomain | undefined) => Promise<T>): Promise<T>
  /** @throws VmError vm-superseded, the signal's reason */
  fence(): Promise<void>
}

/** What an action's work comes to. `entry`: what becomes of the registry's entry; undefined removes it. */
export interface Done {
  summary: string
  unchanged?: boolean
  entry?: (r: VmRecord) => VmRecord | undefined
  /** when there is no entry any more (or never was one) */
  vm?: VmRecord
}

export interface RunOptions {
  action: VmAction
  order: VmOrder
  name: string
  hooks: VmHooks
  /** the phase that it begins with */
  first: VmPhase
  /** after a failure, not after an abort that leaves the rest to the next attempt; its sentence is added to the error's */
  onFailure?(a: Action, error: unknown): Promise<string | undefined>
}

/** for undoing what was done, also when libvirt is away */
const UNDO_MS = 60_000

/** Aborts after which the same job goes on, here or elsewhere: nothing is undone. */
const GOES_ON = new Set(['drain', 'fenced'])

const goesOn = (signal: AbortSignal): boolean =>
  signal.aborted && GOES_ON.has(String((signal.reason as { kind?: unknown } | undefined)?.kind))

export async function runAction(parts: VmParts, o: RunOptions, work: (a: Action) => Promise<Done>): Promise<VmResult> {
  const { order, name, hooks } = o
  const phases: VmResult['phases'] = []
  const warnings: string[] = []
  let phase = o.first
  let since = performance.now()
  let begun = false
  let before: VmRecord | undefined
  const who = { instance: parts.instance, dir: parts.dir, name }

  const report: Action['say'] = (message, p) => hooks.progress({ phase, message, ...p })
  const close = (): void => {
    const duration_ms = Math.round(performance.now() - since)
    const same = phases.find((x) => x.name === phase)
    if (same) same.duration_ms += duration_ms
    else phases.push({ name: phase, duration_ms })
    since = performance.now()
  }
  const waiting = (what: string) => (why: string | undefined) => {
    hooks.waiting?.(why)
    if (why === undefined) hooks.progress({ phase })
    // `waiting_on` says the rest where there is somebody who shows it
    else report(hooks.waiting ? `waits for libvirt, which is needed ${what}` : `waits for ${why} (needed ${what})`)
  }

  hooks.progress({ phase })
  await using _turn = await parts.locks.take(name, order, { signal: hooks.signal, onWait: report })

  const build = (hooks: VmHooks): Action => {
    const a: Action = {
      parts,
      action: o.action,
      order,
      name,
      folder: join(parts.dir, name),
      hooks,
      warnings,
      get before() {
        return before
      },
      async phase(next, message) {
        hooks.signal.throwIfAborted()
        if (next !== phase) {
          close()
          phase = next
        }
        hooks.progress({ phase, ...(message === undefined ? {} : { message }) })
        if (begun) await a.change((r) => ({ ...r, doing: { ...r.doing!, phase: next } }))
      },
      say: report,
      warn(message) {
        if (warnings.includes(message)) return
        warnings.push(message)
        hooks.log('agent', `warning: ${message}\n`)
      },
      async begin(f) {
        const now = new Date().toISOString()
        const record = await parts.registry.update(name, (r) => {
          if (r && r.order.job === order.job && r.order.epoch > order.epoch) {
            throw superseded(name, order, `attempt ${r.order.epoch} of the same job has taken over`)
          }
          before = r
          const next = f(r)
          // what an earlier attempt of this job has noted still holds
          const { was = r?.desired, leases } = r?.doing?.job === order.job ? r.doing : {}
          return {
            ...next,
            order: { ...order },
            doing: { action: o.action, phase, ...order, since: now, ...clean({ was, leases }) },
            updated_at: now,
          }
        })
        begun = true
        return record!
      },
      async change(f) {
        const record = await parts.registry.update(name, (r) => {
          checkEntry(name, order, r)
          return { ...f(r!), updated_at: new Date().toISOString() }
        })
        return record!
      },
      async fence() {
        hooks.signal.throwIfAborted()
        if (hooks.owned && !(await hooks.owned())) {
          throw superseded(name, order, 'the job was taken from this agent')
        }
        checkEntry(name, order, await parts.registry.get(name))
      },
      ask: (what, fn) => parts.link.use(fn, { signal: hooks.signal, what, onWait: waiting(what) }),
      act: (what, fn) =>
        a.ask(what, async (s) => {
          await a.fence()
          const record = await parts.registry.get(name)
          // what goes is ours by its uuid, whoever has the name by now
          const d = await (record?.desired === 'deleted' ? domainOf : ownDomain)(s, who, record)
          checkMaker(name, order, d?.made)
          return fn(s, d)
        }),
    }
    return a
  }
  const a = build(hooks)

  try {
    checkLater(name, order, await parts.registry.get(name))
    const done = await work(a)
    close()
    let vm = done.vm
    if (begun) {
      const entry = await parts.registry.update(name, (r) => {
        checkEntry(name, order, r)
        const next = done.entry ? done.entry(r!) : r
        return next && over(next, o, 'done')
      })
      vm = entry ?? done.vm
    }
    hooks.log('agent', `${done.summary}\n`)
    return { summary: done.summary, vm, warnings, phases, ...(done.unchanged ? { unchanged: true } : {}) }
  } catch (thrown) {
    const error = asVmError(thrown, { name, phase })
    const lost = error instanceof VmError && error.code === 'vm-superseded'
    // a later attempt of the job reads where this one was
    if (!begun || lost || goesOn(hooks.signal)) throw error
    const more = await o.onFailure?.(build({ ...hooks, signal: AbortSignal.timeout(UNDO_MS) }), error)
    await failed(parts, o, error)
    if (more !== undefined && error instanceof Error) error.message = `${error.message} ${more}`
    throw error
  }
}

/** An action that failed changed nothing of what the VM should be. */
async function failed(parts: VmParts, o: RunOptions, error: unknown): Promise<void> {
  const message = error instanceof Error ? error.message : String((error as { message?: unknown })?.message ?? error)
  try {
    await parts.registry.update(o.name, (r) => {
      if (!r || r.order.job !== o.order.job || r.order.epoch !== o.order.epoch) return r
      const desired = r.desired === 'deleted' ? r.desired : (r.doing?.was ?? r.desired)
      return over({ ...r, desired }, o, 'failed', message)
    })
  } catch (e) {
    parts.log.warn('vm.entry-not-closed', { name: o.name, job: o.order.job, error: e })
  }
}

const clean = <T extends object>(o: T): Partial<T> =>
  Object.fromEntries(Object.entries(o).filter(([, v]) => v !== undefined)) as Partial<T>

function over(r: VmRecord, o: RunOptions, outcome: 'done' | 'failed', message?: string): VmRecord {
  const at = new Date().toISOString()
  const { doing: _, ...rest } = r
  return {
    ...rest,
    last: { action: o.action, ...o.order, outcome, at, ...(message === undefined ? {} : { message }) },
    updated_at: at,
  }
}

/** The entry with what is seen of the domain just now. */
export async function seen(a: Action, r: VmRecord): Promise<VmRecord> {
  const state = await a.ask(`to see how the VM "${a.name}" is`, async (s) => {
    const d = await s.query.domains.byUuid(r.uuid)
    return d && s.query.domains.state(d)
  })
  return {
    ...r,
    state: state === undefined ? 'missing' : vmStateOf(state),
    state_reason: state?.reason ?? 'undefined',
    state_at: new Date().toISOString(),
  }
}
