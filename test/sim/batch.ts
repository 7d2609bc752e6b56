/** A batch in the simulation: makes its children as src/agent does, waits for them, and is cut off wherever chance has it. */
import { fail } from './disk.ts'
import type { Rules } from './rules.ts'
import type { Proc, World } from './world.ts'
import {
  type Accepted,
  acceptRecords,
  type Claim,
  cancelRequests,
  childUlid,
  commit,
  existingJobs,
  giveBack,
  type IntakeOptions,
  type JobRecord,
  requestCancel,
  type Spool,
} from '../../src/spool/index.ts'

/** How many children a job has; 0: it is no batch. */
export function childCount(record: JobRecord): number {
  return Number(record.manifest?.labels?.children ?? 0)
}

export function childIds(id: string, count: number): string[] {
  return Array.from({ length: count }, (_, i) => childUlid(id, i))
}

interface Waiting {
  record: JobRecord
  state: { stop: boolean }
  resolve(): void
  reject(error: unknown): void
}

/** What an agent's intake accepts for its batches, between its own rounds. */
export interface Nursery {
  submit(record: JobRecord, state: { stop: boolean }): Promise<void>
  accept(s: Spool, o: IntakeOptions): Promise<Accepted[]>
}

export function nursery(): Nursery {
  let waiting: Waiting[] = []
  return {
    submit: (record, state) => new Promise((resolve, reject) => waiting.push({ record, state, resolve, reject })),
    async accept(s, o) {
      const all = waiting
      waiting = []
      for (const w of all) if (w.state.stop || !s.owner) w.reject(fail('EFENCED'))
      const live = s.owner ? all.filter((w) => !w.state.stop) : []
      if (live.length === 0) return []
      const results = await acceptRecords(
        s,
        o,
        live.map((w) => w.record),
      )
      const accepted: Accepted[] = []
      results.forEach((r, i) => {
        if (r.status === 'rejected') live[i]!.reject(r.reason)
        else {
          if (r.value) accepted.push(r.value)
          live[i]!.resolve()
        }
      })
      return accepted
    },
  }
}

/** One attempt at a batch. */
export async function attemptBatch(
  world: World,
  rules: Rules,
  proc: Proc,
  s: Spool,
  c: Claim,
  state: { stop: boolean },
  children: Nursery,
): Promise<void> {
  const r = world.random
  const { name, record } = c
  const ids = childIds(name.id, childCount(record))
  // As in src/jobs/batch.ts: at the first attempt none can exist; after any doubt it is looked for.
  let unknown = name.epoch > 0 ? ids : []
  let missing = name.epoch > 0 ? [] : ids
  const ended = new Set<string>()
  let cancelled = false
  while (ended.size < ids.length) {
    if (state.stop) throw fail('EFENCED')
    if (!world.calm && r.chance(0.05)) {
      await giveBack(s, c)
      return
    }
    try {
      if (unknown.length > 0) {
        const there = await existingJobs(s, unknown)
        missing = ids.filter((id) => missing.includes(id) || (unknown.includes(id) && !there.has(id)))
        unknown = []
      }
      if ((await cancelRequests(s)).some((x) => x.id === name.id)) {
        if (!cancelled) for (const id of ids) if (!missing.includes(id)) await cancel(s, rules, id)
        cancelled = true
        if (missing.length + ended.size === ids.length) break
      } else if (missing.length > 0) {
        const next = missing.slice(0, 1 + r.int(2))
        missing = missing.filter((id) => !next.includes(id))
        unknown = next
        const made = await Promise.allSettled(
          next.map((id) => children.submit(childRecord(c, ids.indexOf(id), id), state)),
        )
        unknown = next.filter((_, i) => made[i]!.status === 'rejected')
      }
      for (const id of ids) {
        if (ended.has(id) || missing.includes(id) || unknown.includes(id)) continue
        if (await hasResult(s, id)) ended.add(id)
      }
    } catch (error) {
      world.say(`${proc.name} batch ${name.id}: ${String(error)}`)
    }
    await world.pause(proc)
  }
  if (state.stop) throw fail('EFENCED')
  await commit(s, c, cancelled ? 'cancelled' : 'failed', {
    error: 'a batch',
    result: {
      schema: 1,
      id: name.id,
      name: record.answer,
      state: cancelled ? 'cancelled' : 'failed',
      epoch: name.epoch,
      finished_at: new Date(s.clock.now()).toISOString(),
    },
  })
  // It ends as failed, for it makes no image; what the rules want of it is told here.
  if (!cancelled) rules.batchEnded(name.id, ids)
}

async function cancel(s: Spool, rules: Rules, id: string): Promise<void> {
  rules.cancelAsked(id)
  await requestCancel(s, id, 'its batch')
}

function childRecord(c: Claim, i: number, id: string): JobRecord {
  const { record } = c
  const answer = ['a', 'c0', 'c1', 'b'][i % 4]!
  const manifest = { ...record.manifest, name: answer, labels: { drop: `${record.manifest.labels?.drop}/${i}` } }
  return { ...record, id, answer, manifest, parent: { id: record.id, vm: `v${i}` } }
}

async function hasResult(s: Spool, id: string): Promise<boolean> {
  try {
    const { bytes } = await s.fs.readFile(`${s.layout.outputJobs}/${id}/result.json`)
    return JSON.parse(bytes.toString('utf8')).id === id
  } catch (error) {
    const code = (error as { code?: string }).code
    if (code === 'ENOENT' || code === 'ESTALE' || error instanceof SyntaxError) return false
    throw error
  }
}
