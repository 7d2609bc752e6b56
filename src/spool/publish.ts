/**
 * Publish: what a committed job made becomes what clients see. Files are only moved, never written from memory, and every
 * source path carries the job's id: an agent that comes late finds nothing to move. So any agent may do it, again and
 * again, until the job is final.
 */
import { join } from 'node:path'
import { supersedeAnswer } from './answers.ts'
import { errno } from './errors.ts'
import { forgetKept, removeAllButKept } from './kept.ts'
import { ensureDurableDir, listed, move, namesIn, removeFile, removeTree, syncIfThere } from './moves.ts'
import { type JobName, isPolled, laneFolder, parseJobName, publicationOrder, renamed, type Outcome } from './names.ts'
import { anyInAccept } from './accept.ts'
import { settlePayload } from './payload.ts'
import { type JobRecord, readRecord } from './record.ts'
import type { Spool } from './spool.ts'
import { readLane } from './ticket.ts'

export interface Published {
  name: JobName
  record: JobRecord
  outcome: Outcome
  /** the name's answer is this job's; false when a later job took the name */
  visible: boolean
}

/** Publishes everything in committed/, whoever committed it. A job that cannot be published now is tried again later. */
export async function publishCommitted(
  s: Spool,
  o: { onError?: (name: JobName, error: unknown) => void } = {},
): Promise<Published[]> {
  const out: Published[] = []
  const names = (await namesIn(s, s.layout.committed)).map(parseJobName).filter((n) => n !== undefined)
  if (names.length === 0) return out
  // The commit itself first: were it published and then taken back by power loss, a second attempt would publish again.
  await s.sync(s.layout.committed)
  // Of one lane in the order of acceptance, different lanes side by side.
  const lanes = new Map<string, JobName[]>()
  for (const n of names) lanes.set(n.key, [...(lanes.get(n.key) ?? []), n])
  await Promise.all(
    [...lanes.values()].map(async (lane) => {
      for (const name of lane.sort((a, b) => a.ticket - b.ticket)) {
        try {
          const published = await publish(s, name)
          if (published) out.push(published)
        } catch (error) {
          if (!o.onError) throw error
          o.onError(name, error)
        }
      }
    }),
  )
  return out
}

/**
 * Publishes one committed job. Its commit must be durable (publishCommitted sees to that).
 * @returns undefined while the job has to wait in committed/ for an older one of its lane (its answer is out already)
 */
async function publish(s: Spool, name: JobName): Promise<Published | undefined> {
  const l = s.layout
  const committed = join(l.committed, name.file)
  let record: JobRecord
  try {
    record = await readRecord(s, committed)
  } catch (error) {
    if (errno(error) === 'ENOENT') return undefined // another agent was faster
    throw error
  }
  const attempt = join(l.work, name.id, `${name.epoch}-${name.owner}`)
  const jobDir = join(l.outputJobs, name.id)
  await ensureDurableDir(s, jobDir)
  const own = await namesIn(s, join(attempt, 'own'), true)
  for (const file of own.filter((f) => f !== STATUS)) await replace(s, join(attempt, 'own', file), join(jobDir, file))
  await move(s, join(attempt, 'answer'), join(jobDir, 'answer'))

  // The lane decides, and it is read after the answer lies in jobs/<id>/answer: an accept that came before is in this
  // listing, one that comes later finds the answer there and takes it away.
  const lane = await readLane(s, name.key, true)
  const ticket = lane.find((t) => t.id === name.id)
  let visible = false
  if (ticket) {
    const older = lane.slice(0, lane.indexOf(ticket)).map((x) => x.id)
    // Out of turn (a rejection, a cancelled job) only when nobody before us is still being accepted: the last step of an accept
    // moves what is public, and must not find ours.
    if (await anyInAccept(s, older)) return undefined
    visible = lane.at(-1) === ticket
    if (visible) await moveOut(s, join(jobDir, 'answer'), l.output)
    else await supersedeAnswer(s, name.id)
    await tell(s, own, attempt, jobDir)
    // What is published must not be undone by power loss once the ticket is gone.
    await Promise.all([s.sync(l.output), s.sync(jobDir)])
    if (older.length > 0) return undefined // a job leaves its lane in order: an older one must still see that we are later
    await removeFile(s, join(l.lanes, laneFolder(name.key), ticket.file))
  }
  if (!ticket) {
    await tell(s, own, attempt, jobDir)
    await s.sync(jobDir)
  }
  // Also when another publisher removed the ticket: the job must not be final while power loss could bring its ticket back.
  await syncIfThere(s, join(l.lanes, laneFolder(name.key)))
  await settlePayload(s, record, name.outcome!)
  const final = renamed(name, {})
  const to = join(l[name.outcome!], final.file)
  let ours = true
  try {
    await s.fs.rename(committed, to)
  } catch (error) {
    if (!(await listed(s, to))) {
      if (errno(error) === 'ENOENT' && !(await listed(s, committed))) return undefined
      throw error
    }
    // Another publisher was faster, or our reply was lost. Saying nothing is right in the first case, which is the common one.
    ours = false
  }
  await s.sync(l[name.outcome!])
  await removeScratch(s, name, record)
  return ours ? { name: final, record, outcome: name.outcome!, visible } : undefined
}

const STATUS = 'status.json'

/** The job's own status says how it ended only when the answer lies where clients look: they wait for this file. */
async function tell(s: Spool, own: readonly string[], attempt: string, jobDir: string): Promise<void> {
  if (!own.includes(STATUS)) return
  await replace(s, join(attempt, 'own', STATUS), join(jobDir, STATUS))
}

async function moveOut(s: Spool, from: string, to: string): Promise<void> {
  // Fresh: an older listing could lack a part, and the image would be seen without it.
  const files = publicationOrder(await namesIn(s, from, true))
  for (const [i, file] of files.entries()) {
    // Neither may power loss keep the image and lose its parts: they are durable before it appears.
    if (isPolled(file) && i > 0 && !isPolled(files[i - 1]!)) await s.sync(to)
    await replace(s, join(from, file), join(to, file))
  }
}

/** A move to a public name, which is not unique: only the source tells whether it happened. */
async function replace(s: Spool, from: string, to: string): Promise<void> {
  try {
    await s.fs.rename(from, to)
  } catch (error) {
    if (await listed(s, from)) throw error
  }
}

/** Scratch goes only now that the job was seen final; losing this race to a crash leaves it to retain(). */
async function removeScratch(s: Spool, name: JobName, record: JobRecord): Promise<void> {
  try {
    if (name.outcome === 'failed') await removeAllButKept(s, name.id, `${name.epoch}-${name.owner}`)
    else await removeTree(s, join(s.layout.work, name.id))
    if (name.outcome === 'done' && record.retry_of !== undefined) await forgetKept(s, record.retry_of, name.key)
  } catch (error) {
    // A fenced attempt may still be writing there: the job is final all the same.
    s.log('scratch.left', { job: name.id, error: String(error) })
  }
}
