/** The intake loop's round: what lies in the queue becomes accepted jobs, and everybody is told. */
import { parseManifest } from '../manifest/index.ts'
import { handlers } from '../jobs/registry.ts'
import { type Accepted, dependenciesOf, heldFor, type IntakeOptions, takeAndAccept } from '../spool/index.ts'
import type { StatusWriter } from './job-status.ts'
import { firstRun } from './repeat.ts'
import type { Scheduler } from './scheduler.ts'
import { type Agent, heldUntil } from './state.ts'
import { baseStatus, iso } from './status-fields.ts'

/** How soon a drop that is not whole yet is looked at again, in ms. */
const PENDING_MS = 100

function optionsOf(a: Agent): IntakeOptions {
  const c = a.config.intake
  return {
    parse: (bytes, fileName) =>
      firstRun(
        parseManifest(bytes, { fileName, maxBytes: c.max_manifest_bytes, dropDir: a.spool.layout.queue }),
        Date.now(),
      ),
    knownKinds: new Set(handlers.keys()),
    batch: c.batch,
    settings: {
      max_manifest_bytes: c.max_manifest_bytes,
      yaml_quiet_ms: c.yaml_quiet,
      incomplete_after_ms: c.incomplete_after,
      raw_keep_ms: c.raw_keep,
      file_stable_ms: c.file_stable_timeout,
      bare_disks: c.bare_disks === 'on',
      on_in_use: a.config.on_in_use,
    },
    // The image room pulls in an XML reader, which an idle agent does not need.
    inspectDrop: async (path) => (await import('../images/index.ts')).inspectDroppedDisk(path),
    inUse: (path) => inUse(a, path),
  }
}

/** A VM that runs on another name of the same file keeps it, whatever becomes of this one. */
async function inUse(a: Agent, path: string): Promise<string | undefined> {
  const user = await (await import('../images/in-use.ts')).imageInUse(path)
  if (user === undefined) return undefined
  const { diskOwner, vmsDir } = await import('../vm/index.ts')
  const owner = await diskOwner(vmsDir(a.config, a.spool.layout.output), path).catch(() => undefined)
  return owner === undefined ? user : undefined
}

export function intakeRound(a: Agent, scheduler: Scheduler, status: StatusWriter): () => Promise<number | undefined> {
  return async () => {
    const unable = a.fenced || !a.spool.owner
    if (unable || a.draining) a.batches.refuse('The agent takes nothing in just now.', unable)
    if (unable) return undefined
    const options = optionsOf(a)
    const children = await a.batches.accept(options)
    for (const job of children) announce(a, scheduler, status, job)
    if (a.draining) return undefined
    const round = await takeAndAccept(a.spool, options)
    for (const job of round.accepted) announce(a, scheduler, status, job)
    if (round.accepted.length + children.length > 0) a.dispatch()
    if (round.more) return 0
    return round.pending > 0 ? Math.min(PENDING_MS, a.config.intake.poll_ms) : undefined
  }
}

function announce(a: Agent, scheduler: Scheduler, status: StatusWriter, { name, record, state }: Accepted): void {
  const about = {
    job: name.id,
    name: record.answer,
    kind: record.kind,
    drop_file: record.drop.file,
    ...(record.parent ? { parent: record.parent.id } : {}),
  }
  a.lastMove = performance.now()
  a.events.add({ event: 'accepted', ...about })
  if (record.rejected) {
    a.metrics.inc('vmspool_drops_rejected_total')
    a.log.warn('drop.rejected', { ...about, reason: record.rejected.message })
  } else {
    a.metrics.inc('vmspool_drops_accepted_total', { kind: record.kind })
    a.log.info('drop.accepted', { ...about, state, uid: record.drop.uid, warnings: record.diagnostics.length })
  }
  if (state === 'claimed') {
    a.publish() // a rejection: its answer is committed already
    return
  }
  const base = baseStatus(name, record)
  if (state === 'held') {
    status.set({ ...base, state: 'held', since: iso(), waiting_on: heldFor(name, record) })
    if (dependenciesOf(record).length > 0) {
      a.dependencies?.add({ name, record, state })
      a.tick()
    }
    return
  }
  status.set({
    ...base,
    state: 'queued',
    since: iso(),
    waiting_on: heldUntil(a) ?? scheduler.firstWait(record) ?? 'its turn',
  })
  scheduler.remember(name, record)
  a.plan?.add(name)
}
