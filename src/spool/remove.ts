/** Removing a job that is over: its record, its folder by id, its scratch. Its public answer stays. */
import { join } from 'node:path'
import { appendEvent } from './events.ts'
import { namesIn, removeFile, removeTree } from './moves.ts'
import { childPrefix, ulidTime } from './names.ts'
import { readRecord } from './record.ts'
import type { Spool } from './spool.ts'

/** @param path of its record. What the record names goes first, so that a cut-off leaves the record to try again by. */
export async function removeJob(s: Spool, path: string, id: string): Promise<void> {
  await removeTree(s, join(s.layout.work, id))
  await removeTree(s, join(s.layout.outputJobs, id))
  await removeQuarantine(s, path)
  await removeFile(s, path)
}

/** For whoever keeps an index of the jobs; one that does not hear of it finds out by the files. */
export async function tellRemoved(s: Spool, jobs: readonly string[]): Promise<void> {
  const events = jobs.map((job) => ({ event: 'removed', job }))
  await appendEvent(s, events).catch((error) => s.log('events.failed', { error: String(error) }))
}

/**
 * A batch that has not ended looks up how its children ended, also after a crash: until then they stay. Whether a job that is not over is
 * a batch its name does not say; no other job's id begins like a child's.
 */
export function childrenNeeded(s: Spool): (id: string) => Promise<boolean> {
  let open: Promise<Map<string, string[]>> | undefined
  return async (id) => {
    open ??= openJobs(s)
    return (await open).get(id.slice(0, 10))?.some((parent) => id.startsWith(childPrefix(parent))) === true
  }
}

/** The jobs that are not over, by their time, which a child shares. Twice: one that moved back while we looked is in the second. */
async function openJobs(s: Spool): Promise<Map<string, string[]>> {
  const out = new Map<string, string[]>()
  for (let pass = 0; pass < 2; pass++) {
    const dirs = [s.layout.held, s.layout.new, s.layout.committed]
    for (const owner of await namesIn(s, s.layout.claimed)) dirs.push(join(s.layout.claimed, owner))
    for (const dir of dirs) {
      for (const file of await namesIn(s, dir)) {
        const id = /^(?:\d{13}-)?\d-([0-9A-HJKMNP-TV-Z]{26})-/.exec(file)?.[1]
        if (id === undefined) continue
        const same = out.get(id.slice(0, 10))
        if (same) same.push(id)
        else out.set(id.slice(0, 10), [id])
      }
    }
  }
  return out
}

/** When a job ended, in ms since 1970; when nobody wrote that down, when it was taken. */
export async function finishedAt(s: Spool, id: string): Promise<number> {
  try {
    const { bytes } = await s.fs.readFile(join(s.layout.outputJobs, id, 'result.json'), 4 << 20)
    const at = Date.parse(JSON.parse(bytes.toString('utf8')).finished_at)
    return Number.isFinite(at) ? at : ulidTime(id)
  } catch {
    return ulidTime(id)
  }
}

async function removeQuarantine(s: Spool, path: string): Promise<void> {
  const record = await readRecord(s, path).catch(() => undefined)
  if (record?.quarantine && !record.quarantine.includes('/'))
    await removeFile(s, join(s.layout.rejected, record.quarantine))
}
