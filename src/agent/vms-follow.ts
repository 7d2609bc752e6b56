/**
 * What the main agent does about VMs without being asked: it follows libvirt's events, compares registry, libvirt and files after each
 * (re)connect and now and then, starts by a job what should run, and writes down what it saw. One thing after the other, so that two looks at
 * one VM cannot cross.
 */
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import type { Session } from '../libvirt/index.ts'
import { vmSuffix } from '../manifest/safe-name.ts'
import { bootId, runGroup } from '../process/index.ts'
import { drop, FINAL_STATES, keyOf, locate, unfinishedOf } from '../spool/index.ts'
import {
  type Drift,
  noteAddresses,
  type Orphan,
  orphanMemory,
  reconcile,
  reconcileOne,
  type ReconcileOptions,
  usageOf,
  type VmRecord,
  type VmReport,
  type Vms,
  type VmUsage,
  writeVmReport,
} from '../vm/index.ts'
import type { Agent } from './state.ts'
import { countStates } from './vm-counts.ts'

export interface VmFollower {
  seen(): { drift: Drift[]; orphans: Orphan[]; seen_at?: string; states?: Record<string, number> }
  close(): Promise<void>
}

/** Everything is compared so often, in ms, also when libvirt says that nothing happened. */
const PASS_MS = 60_000
/** What no event tells of is looked for so often: a damaged registry, and what was done about what is shown. */
const TICK_MS = 3_000
/** After a pass that failed. */
const AGAIN_MS = 5_000
/** Events that come together are looked at together. */
const DEBOUNCE_MS = 30
/** More VMs than this at once: everything is compared. */
const MANY = 32
/** A drop that is not in the queue any more has become a job after so long, in ms, or something is wrong. */
const DROPPED_MS = 15_000

export function followVms(a: Agent, vms: Vms): VmFollower {
  const closing = new AbortController()
  const { signal } = closing
  const remember = orphanMemory()
  let drift: (Drift & { since: string })[] = []
  let orphans: Orphan[] = []
  let seen_at: string | undefined
  let states: Record<string, number> | undefined
  let usage: Record<string, VmUsage> = {}
  let written = ''
  const dropped = new Map<string, { file: string; at: number }>()
  /** what was known of a VM when it was found to differ, and how often the registry was damaged by then */
  const basis = new Map<string, string>()
  let problems = 0

  const known = async (): Promise<Map<string, VmRecord>> => new Map((await vms.registry.all()).map((r) => [r.name, r]))
  const wish = (r: VmRecord | undefined): string => JSON.stringify([r?.order, r?.desired, r?.doing])

  const report = async (): Promise<void> => {
    const records = await known()
    states = countStates([...records.values()])
    const { state, since, reason } = vms.link.health()
    const content: Omit<VmReport, 'at'> = {
      schema: 1,
      ...(seen_at ? { seen_at } : {}),
      instance: vms.registry.instance,
      host: vms.registry.host,
      libvirt: { uri: vms.link.uri, state, since, ...(reason ? { reason } : {}) },
      drift,
      orphans,
      problems: vms.registry.problems(),
      usage,
    }
    const text = JSON.stringify(content)
    if (text === written) return
    await writeVmReport(vms.registry.path, { ...content, at: new Date().toISOString() })
    written = text
  }
  const tryReport = (): Promise<void> => report().catch((error) => a.log.warn('vm.report-failed', { error }))
  const stopWatching = vms.link.onChange(() => void tryReport())

  /** What is new is logged; what goes on is shown since when it was first seen. */
  const note = (found: readonly Drift[], of?: string): void => {
    const before = new Map(drift.map((d) => [`${d.kind} ${d.name} ${d.message}`, d]))
    const at = new Date().toISOString()
    const now = found.map((d) => {
      const known = before.get(`${d.kind} ${d.name} ${d.message}`)
      if (!known) a.log.warn('vm.drift', { name: d.name, kind: d.kind, message: d.message })
      return known ?? { ...d, since: at }
    })
    drift = of === undefined ? now : [...drift.filter((d) => d.name !== of || isOrphan(d)), ...now]
  }

  /** Whether everything is to be compared; what changed of a VM that is shown to differ is put to `pending`. */
  const changed = async (pending: Set<string>): Promise<boolean> => {
    const records = await known() // which finds out whether the registry can be used
    if (vms.registry.problems().length !== problems) return true
    if (orphans.some((o) => o.path !== undefined && !existsSync(o.path))) return true
    const shown = new Set(drift.map((d) => d.name))
    // one that stopped while a job was at it had no word of its own
    for (const r of records.values()) {
      if (r.desired === 'running' && r.state !== 'running' && !r.doing && !shown.has(r.name)) pending.add(r.uuid)
    }
    for (const name of shown) {
      const r = records.get(name)
      if (!basis.has(name) || basis.get(name) === wish(r)) continue
      if (!r) return true
      pending.add(r.uuid)
    }
    return false
  }
  const remembered = async (names: readonly string[] | undefined): Promise<void> => {
    const records = await known()
    if (names === undefined) basis.clear()
    for (const name of names ?? records.keys()) basis.set(name, wish(records.get(name)))
  }

  /** A start that we dropped counts from the drop on, and not only once it is a job. */
  const busy = async (name: string): Promise<boolean> => {
    const last = dropped.get(name)
    if (last) {
      const waits = existsSync(join(a.spool.layout.queue, last.file)) || performance.now() - last.at < DROPPED_MS
      const status = join(a.spool.layout.output, `${vmAnswer(name)}.status.json`)
      if (waits && (await dropOf(status)) !== last.file) return true
      dropped.delete(name)
    }
    return (await unfinishedOf(a.spool, keyOf(vmAnswer(name)))).length > 0
  }
  const over = async (id: string, name: string): Promise<boolean> => {
    if (a.running.has(id) || a.inFlight.has(id)) return false
    if ((await unfinishedOf(a.spool, keyOf(vmAnswer(name)))).includes(id)) return false
    // between two folders it is in neither: looked for twice
    for (let round = 0; round < 2; round++) {
      const found = (await locate(a.spool, new Set([id]))).get(id)
      if (found) return FINAL_STATES.has(found.state)
    }
    return true
  }

  const options = (session: Session): ReconcileOptions => ({
    registry: vms.registry,
    session,
    dir: vms.dir,
    uri: vms.link.uri,
    boot_id: bootId(),
    hostStops,
    jobs: { busy, over },
    remember,
    signal,
    log: (level, event, fields) => a.log[level](event, fields),
  })

  const start = async (records: readonly VmRecord[]): Promise<void> => {
    for (const r of records) {
      // It waits for nothing but its turn, and is not repeated: when it fails, or the VM dies, the next look decides.
      const manifest = {
        kind: 'vm',
        action: 'start',
        name: r.name,
        hosts: [hostname()],
        labels: { by: 'reconcile' },
        wait_for_address: false,
        retry: { max_attempts: 0 },
      }
      const file = await drop(a.spool, Buffer.from(JSON.stringify(manifest)), `start-${r.name}.json`)
      dropped.set(r.name, { file, at: performance.now() })
      a.log.info('vm.starting', {
        name: r.name,
        why: `it should run and does not (${r.state_reason})`,
        times: r.starts?.count,
      })
    }
  }

  /** how long, in ms, until something is to be done that no event tells of */
  const until = (due: number | undefined): number =>
    due === undefined ? PASS_MS : Math.min(PASS_MS, Math.max(200, due - Date.now()))

  /** Nothing is decided by an agent that is about to go: what stops now may stop because the host does. */
  const idle = (): boolean => a.draining || a.fenced

  const pass = async (session: Session): Promise<number> => {
    problems = vms.registry.problems().length
    const r = await reconcile(options(session))
    note(r.drift)
    await remembered(undefined)
    orphans = r.orphans
    seen_at = r.at
    await start(r.toStart)
    await noteAddresses(vms.registry, session.query)
    usage = await usageOf(session, await vms.registry.all(), usage, signal)
    await report()
    // a leftover is told from something that is being made by a second look
    const soon = orphans.some((o) => o.passes < 2) ? 10_000 : PASS_MS
    return Math.min(soon, until(r.due))
  }

  const event = async (session: Session, uuid: string): Promise<number> => {
    const r = await reconcileOne(options(session), uuid)
    if (!r) return orphans.some((o) => o.uuid === uuid) ? 0 : PASS_MS
    note(r.drift, r.name)
    await remembered([r.name])
    await start(r.toStart)
    await report()
    return until(r.due)
  }

  /** One session: until libvirt is lost, or we close. */
  const spell = async (session: Session): Promise<void> => {
    const pending = new Set<string>()
    let over = false
    let wake = (): void => {}
    const wait = (ms: number): Promise<void> =>
      new Promise((resolve) => {
        const timer = setTimeout(resolve, ms)
        wake = () => {
          clearTimeout(timer)
          resolve()
        }
        if (over || signal.aborted) wake()
      })
    const stop = (): void => wake()
    signal.addEventListener('abort', stop)
    const reading = (async () => {
      for await (const e of session.events) {
        if (e.kind !== 'lifecycle') continue
        pending.add(e.domain.uuid)
        wake()
      }
    })()
      // too many at once: a new session lists everything anew
      .catch((error) => {
        a.log.warn('vm.events-lost', { error })
        return session.query.close()
      })
      .finally(() => {
        over = true
        wake()
      })
    void session.ended.then(() => {
      over = true
      wake()
    })
    let due = 0
    let failure: string | undefined
    try {
      while (!over && !signal.aborted) {
        try {
          if (idle()) {
            pending.clear() // the pass that follows sees all of it
            due = performance.now() + AGAIN_MS
          } else if (performance.now() >= due || pending.size > MANY || (await changed(pending))) {
            pending.clear()
            due = performance.now() + (await pass(session))
            failure = undefined
          } else {
            for (const uuid of [...pending]) {
              pending.delete(uuid)
              due = Math.min(due, performance.now() + (await event(session, uuid)))
            }
          }
        } catch (error) {
          if (over || signal.aborted) break
          const message = String((error as Error)?.message)
          if (message !== failure) a.log.warn('vm.reconcile-failed', { error })
          failure = message
          due = performance.now() + AGAIN_MS
        }
        if (pending.size === 0) await wait(Math.min(TICK_MS, Math.max(0, due - performance.now())))
        if (pending.size > 0 && !over) await new Promise((resolve) => setTimeout(resolve, DEBOUNCE_MS))
      }
    } finally {
      signal.removeEventListener('abort', stop)
      // whoever closes ends the session too, which ends the reading; a daemon that hangs is not asked to forget us
      if (!signal.aborted) await reading
    }
  }

  const following = (async () => {
    await tryReport()
    for await (const session of vms.link.sessions()) {
      if (signal.aborted) return
      await spell(session)
      if (signal.aborted) return
    }
  })().catch((error) => a.log.error('vm.follow-failed', { error }))

  return {
    seen: () => ({
      drift: drift.filter((d) => !isOrphan(d)),
      orphans,
      ...(seen_at ? { seen_at } : {}),
      ...(states ? { states } : {}),
    }),
    async close() {
      stopWatching()
      closing.abort(new Error('The agent is ending.'))
      await Promise.race([following, vms.link[Symbol.asyncDispose]().then(() => following)])
    },
  }
}

const isOrphan = (d: Drift): boolean => d.kind === 'orphan-domain' || d.kind === 'orphan-folder'

/** What the job that an answer belongs to was dropped as. */
async function dropOf(status: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(status, 'utf8'))?.drop_file
  } catch {
    return undefined
  }
}

/** What the answer of a VM's jobs is called. */
const vmAnswer = (name: string): string => `${name}${vmSuffix}`

/** Under systemd, whether the host is going down: it asks the guests to stop, or stops them. */
async function hostStops(): Promise<boolean> {
  if (!existsSync('/run/systemd/system')) return false
  let said = ''
  try {
    await runGroup(['systemctl', 'is-system-running'], {
      onStdout: (chunk) => {
        said += chunk.toString()
      },
      signal: AbortSignal.timeout(5_000),
    })
  } catch {
    return false
  }
  return said.trim() === 'stopping'
}
