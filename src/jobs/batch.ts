/**
 * The handler of `kind: batch`: makes its VMs ordinary jobs, at most `parallel_limit` at once, and waits for them.
 *
 * It keeps nothing of its own. Which children there are follows from the batch's id and manifest; what became of each is read from the folders.
 * So an attempt that follows a crash, a drain or a takeover goes on where the last one was, and only the attempt that holds
 * the batch can make children: a stalled one has lost the folder through which they would have to go, and one process never has two in hand.
 */
import { ImageError, type Submitter, submitterOf } from '../images/index.ts'
import type { BatchManifest } from '../manifest/index.ts'
import {
  bytesDone,
  type Child,
  childrenOf,
  countsOf,
  hasFailed,
  note,
  percentDone,
  told,
  endOf,
} from './batch-children.ts'
import { countsText } from '../text/counts.ts'
import { childRecord } from './batch-manifest.ts'
import type { Family } from './family.ts'
import { abortedError, abortReason, type JobContext, JobError, type JobOutcome } from './types.ts'

/** Least time between two looks at the open children, in ms; with many it grows, so that looking stays cheap. */
const LOOK_MS = 500
/** So many manifests are read, and so many jobs made, before the open ones are looked at again. */
const AT_ONCE = 32
/** A manifest that cannot be read just now is tried again after 2, 4, 8, … seconds. */
const MOST_TRIES = 6

type Context = JobContext<BatchManifest>

export async function runBatch(m: BatchManifest, c: Context): Promise<JobOutcome> {
  const { family } = c
  if (!family)
    throw new JobError('A batch needs a spool in which its VMs become jobs.', {
      code: 'no-spool',
      transient: false,
      hint: 'Submit it to an agent: vmspool submit FILE',
    })
  // At the first attempt, which no other preceded, none can have been made.
  const children = childrenOf(m, c.id, c.epoch > 0)
  await passOver(children, family)
  const b: Running = { m, c, family, children, who: await submitterOf(c.drop.uid, c.drop.gid) }
  let trouble = 0
  for (;;) {
    if (family.stop() === 'leave') throw abortedError(c.signal, 'children')
    let wait = LOOK_MS
    try {
      wait = await step(b)
      trouble = 0
    } catch (error) {
      if (family.stop() === 'leave') throw abortedError(c.signal, 'children')
      // While the batch is being cancelled nothing is accepted any more: the next round sees what was.
      if (!passes(error) && family.stop() === undefined) throw error
      trouble += 1
      wait = Math.min(15_000, 250 * 2 ** trouble)
      c.log(
        'agent',
        `The children could not be looked after, and are again in ${wait} ms: ${String((error as Error).message)}\n`,
      )
    }
    report(b)
    if (children.every((x) => !['unknown', 'waiting', 'open'].includes(x.state))) return finish(b)
    if (wait > 0) await family.wait(wait)
  }
}

interface Running {
  m: BatchManifest
  c: Context
  family: Family
  children: readonly Child[]
  who: Submitter
}

/** One round: look at the open ones, stop or start some. Returns how long to wait for the next. */
async function step(b: Running): Promise<number> {
  const { children, family } = b
  await findUnknown(b)
  const open = children.filter((x) => x.state === 'open')
  for (let i = 0; i < open.length; i += 64) await Promise.all(open.slice(i, i + 64).map((x) => lookAt(b, x)))
  const stop = stopReason(b)
  if (stop !== undefined) {
    await stopRest(b, stop)
    return lookWait(children)
  }
  const free = b.m.batch_metadata.parallel_limit - children.filter((x) => x.state === 'open').length
  const now = performance.now()
  const ready = children.filter((x) => x.state === 'waiting' && (x.again ?? 0) <= now)
  const next = ready.slice(0, Math.max(0, Math.min(free, AT_ONCE)))
  if (next.length === 0 || family.stop() !== undefined) return lookWait(children)
  await start(b, next)
  return next.length === AT_ONCE ? 0 : lookWait(children)
}

const lookWait = (children: readonly Child[]): number =>
  Math.max(LOOK_MS, children.filter((x) => x.state === 'open').length)

async function findUnknown({ children, family }: Running): Promise<void> {
  const unknown = children.filter((x) => x.state === 'unknown')
  if (unknown.length === 0) return
  const there = await family.existing(unknown.map((x) => x.job))
  for (const x of unknown) x.state = there.has(x.job) ? 'open' : 'waiting'
}

async function lookAt({ c, family }: Running, child: Child): Promise<void> {
  note(child, await family.look(child.job), performance.now())
  if (child.state === 'open') return
  c.log('agent', `${child.vm.id}: ${child.state}${child.reason === undefined ? '' : `: ${child.reason}`}\n`)
}

/** Why no further VM is started, as the end of a sentence. */
function stopReason({ m, c, family, children }: Running): { all: boolean; why: string } | undefined {
  if (family.stop() === 'cancel') {
    const kind = abortReason(c.signal)?.kind
    return { all: true, why: kind === 'timeout' ? 'the batch ran longer than its timeout' : 'the batch was cancelled' }
  }
  const first = m.batch_metadata.continue_on_error ? undefined : children.find(hasFailed)
  return (
    first && {
      all: false,
      why: `"${first.vm.id}" ${first.state === 'failed' ? 'failed' : `was ${first.state}`}, and the batch does not continue on errors`,
    }
  )
}

/** What waits is not run; of the open ones those that do not run yet, or all of them, are cancelled. */
async function stopRest(b: Running, stop: { all: boolean; why: string }): Promise<void> {
  for (const x of b.children) {
    if (x.state === 'waiting') {
      x.state = 'not_run'
      x.reason = `It was not started: ${stop.why}.`
    }
    if (x.state !== 'open' || x.cancelled || (!stop.all && x.status?.state === 'running')) continue
    await b.family.cancel(x.job, `the batch ${b.m.name} (${stop.why})`)
    x.cancelled = true
  }
}

async function start(b: Running, next: readonly Child[]): Promise<void> {
  const { c, family, children } = b
  const taken = new Map(children.flatMap((x) => (x.name === undefined ? [] : [[x.name, x.vm.id] as const])))
  const made: Promise<void>[] = []
  for (const x of next) {
    if (family.stop() !== undefined) break
    let record: Awaited<ReturnType<typeof childRecord>>
    try {
      record = await childRecord(b.m, x.vm, { job: x.job, c, who: b.who, taken })
    } catch (error) {
      x.tries += 1
      if (passes(error) && x.tries < MOST_TRIES) {
        const wait = 1000 * 2 ** x.tries
        x.again = performance.now() + wait
        c.log(
          'agent',
          `${x.vm.id}: its manifest cannot be read just now, and is in ${wait} ms: ${(error as Error).message}\n`,
        )
        continue
      }
      if (!(error instanceof Error)) throw error
      x.state = 'failed'
      x.reason = `Its manifest could not be read: ${error.message}`
      c.log('agent', `${x.vm.id}: ${x.reason}\n`)
      continue
    }
    taken.set(record.answer, x.vm.id)
    x.name = record.answer
    // Until it is certain: after an error it may exist or not.
    x.state = 'unknown'
    made.push(
      family.submit(record).then(() => {
        x.state = 'open'
        c.log('agent', `${x.vm.id}: ${record.rejected ? 'rejected' : 'queued'} as job ${x.job}, "${record.answer}"\n`)
      }),
    )
  }
  const failed = (await Promise.allSettled(made)).find((r) => r.status === 'rejected')
  if (failed) throw failed.reason
}

/** VMs that an earlier run of this batch converted, as `vmspool retry` writes it down. Only the job's own result is believed. */
async function passOver(children: readonly Child[], family: Family): Promise<void> {
  for (const x of children) {
    if (x.vm.done_by === undefined || x.state === 'skipped') continue
    const { result } = await family.look(x.vm.done_by)
    if (result?.state !== 'succeeded') continue
    x.state = 'succeeded'
    x.job = x.vm.done_by
    x.name = String(result.name)
    x.ended = endOf(result)
    x.reason = 'An earlier run of this batch converted it.'
  }
}

/** Errors of files and disks behind which the next look may find another world. Anything else is a fault of ours. */
function passes(error: unknown): boolean {
  if (error instanceof ImageError) return error.transient
  return /^E[A-Z0-9]+$/.test(String((error as NodeJS.ErrnoException | undefined)?.code))
}

function report({ c, children }: Running): void {
  const counts = countsOf(children)
  c.progress({
    phase: 'children',
    bytes_done: bytesDone(children),
    percent: percentDone(children),
    children: counts,
    message: countsText(counts),
  })
}

function finish({ m, c, family, children }: Running): JobOutcome {
  const counts = countsOf(children)
  const detail = { counts, children: told(m, children) }
  const hint = `"vmspool retry ${c.id}" runs only those that have not succeeded.`
  if (family.stop() === 'cancel') {
    const reason = abortReason(c.signal)
    throw new JobError(`${reason?.message ?? 'The batch was cancelled.'} ${countsText(counts)}.`, {
      code: `aborted-${reason?.kind ?? 'cancel'}`,
      transient: false,
      phase: 'children',
      hint,
      detail,
    })
  }
  const bad = children.filter((x) => hasFailed(x) || x.state === 'not_run')
  if (bad.length === 0) return { summary: `${countsText(counts)}.`, exit_code: 0, ...detail }
  const some = bad.filter(hasFailed).slice(0, 5)
  const more = counts.failed > some.length ? ` (and ${counts.failed - some.length} more)` : ''
  const reasons = some.map((x) => `${x.vm.id}: ${x.reason?.split('\n')[0] ?? x.state}`)
  throw new JobError(`${countsText(counts)}. ${reasons.join(' ')}${more}`, {
    code: 'children-failed',
    transient: false,
    exit_code: 1,
    phase: 'children',
    hint,
    detail,
  })
}
