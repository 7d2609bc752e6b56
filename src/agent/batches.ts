/**
 * What a batch is given to run its children: they become ordinary jobs of the spool under ids that follow from the batch's own, so every
 * attempt at the batch means the same jobs, and looks in the folders what became of them.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { ChildLook, Family } from '../jobs/family.ts'
import type { AbortReason } from '../jobs/types.ts'
import {
  acceptRecords,
  type Accepted,
  type Claim,
  existingJobs,
  type IntakeOptions,
  type JobRecord,
  type JobStatus,
  requestCancel,
  type Spool,
} from '../spool/index.ts'
import { errno } from '../process/errno.ts'

interface Waiting {
  record: JobRecord
  /** also when the agent drains: a run that ends well then must not be run again for want of the one that follows it */
  always: boolean
  signal: AbortSignal
  resolve(): void
  reject(error: unknown): void
}

export interface Batches {
  /** what the handler of this claim works with; `aborted` tells why the attempt is to stop, and may change from a cancel to a drain */
  familyOf(claim: Claim, signal: AbortSignal, aborted: () => AbortReason | undefined): Family
  /** Accepts the next run of a job that repeats; as {@link Family.submit}, and also while the agent drains. */
  make(record: JobRecord, signal: AbortSignal): Promise<void>
  /** Accepts what batches wait for. Called by the intake's round alone: accepting must not overlap with its recovery. */
  accept(o: IntakeOptions): Promise<Accepted[]>
  /** refuses what waits: the agent begins nothing any more. `all`: it may not accept anything at all */
  refuse(why: string, all: boolean): void
  /** a job of this batch ended, or the batch is to stop */
  wake(parent: string): void
}

/** More children than this are not accepted in one round, so that drops do not wait for a large batch. */
const AT_ONCE = 256

export function createBatches(spool: Spool, kickIntake: () => void): Batches {
  let waiting: Waiting[] = []
  const sleepers = new Map<string, () => void>()
  const submit = (record: JobRecord, signal: AbortSignal, always: boolean): Promise<void> => {
    signal.throwIfAborted()
    return new Promise((resolve, reject) => {
      waiting.push({ record, signal, always, resolve, reject })
      kickIntake()
    })
  }

  return {
    familyOf(claim, signal, aborted) {
      const id = claim.name.id
      return {
        stop() {
          const kind = aborted()?.kind
          return kind === undefined ? undefined : kind === 'cancel' || kind === 'timeout' ? 'cancel' : 'leave'
        },
        existing: (ids) => existingJobs(spool, ids),
        look: (job) => look(spool, job),
        cancel: (job, by) => requestCancel(spool, job, by),
        submit: (record) => submit(record, signal, false),
        wait: (ms) =>
          new Promise((resolve) => {
            const end = (): void => {
              clearTimeout(timer)
              signal.removeEventListener('abort', end)
              if (sleepers.get(id) === end) sleepers.delete(id)
              resolve()
            }
            const timer = setTimeout(end, ms)
            signal.addEventListener('abort', end)
            sleepers.set(id, end)
          }),
      }
    },
    make: (record, signal) => submit(record, signal, true),
    async accept(o) {
      const batch = waiting.slice(0, AT_ONCE)
      waiting = waiting.slice(AT_ONCE)
      // An attempt that lost its job must accept nothing, also under the name of a new owner of this process.
      for (const w of batch) if (w.signal.aborted) w.reject(w.signal.reason)
      const live = batch.filter((w) => !w.signal.aborted)
      if (waiting.length > 0) kickIntake()
      if (live.length === 0) return []
      const results = await acceptRecords(
        spool,
        o,
        live.map((w) => w.record),
      )
      const accepted: Accepted[] = []
      results.forEach((r, i) => {
        if (r.status === 'rejected') {
          live[i]!.reject(r.reason)
          return
        }
        if (r.value) accepted.push(r.value)
        live[i]!.resolve()
      })
      return accepted
    },
    refuse(why, all) {
      const refused = waiting.filter((w) => all || !w.always)
      waiting = waiting.filter((w) => !refused.includes(w))
      for (const w of refused) w.reject(new Error(why))
    },
    wake: (parent) => sleepers.get(parent)?.(),
  }
}

/** The result is moved to its place only by a publication, so it is the last word; the status says what is going on until then. */
async function look(spool: Spool, job: string): Promise<ChildLook> {
  const dir = join(spool.layout.outputJobs, job)
  const [status, result] = await Promise.all([
    read<JobStatus>(join(dir, 'status.json')),
    read<Record<string, unknown>>(join(dir, 'result.json')),
  ])
  return { ...(status ? { status } : {}), ...(result?.id === job ? { result } : {}) }
}

async function read<T>(path: string): Promise<T | undefined> {
  try {
    return JSON.parse(await readFile(path, 'utf8')) as T
  } catch (error) {
    const code = errno(error)
    if (code === 'ENOENT' || code === 'ESTALE' || error instanceof SyntaxError) return undefined
    throw error
  }
}
