/** Retention: what has been final for long enough is removed, oldest first. Public answers are never among it unless asked for. */
import { join } from 'node:path'
import { forgetNamed } from './bare.ts'
import { errno } from './errors.ts'
import { locate } from './find.ts'
import { namesIn, removeFile, removeTree } from './moves.ts'
import { ANSWER_SUFFIXES, OUTCOMES, parseJobName, ULID, ulidTime } from './names.ts'
import { readRecord } from './record.ts'
import { childrenNeeded, finishedAt, removeJob, tellRemoved } from './remove.ts'
import type { Spool } from './spool.ts'

const CANCEL = /^cancel-([0-9A-HJKMNP-TV-Z]{26})\.json$/

export interface Retention {
  /** how long the records, logs and results by id of done jobs are kept, in ms; 0 keeps them for ever */
  done_ms: number
  /** the same for failed, cancelled and rejected jobs */
  failed_ms: number
  /** earlier answers in superseded/ */
  superseded_ms: number
  /** public answers of done jobs; 0, the default, never removes a disk */
  answers_ms?: number
  /** most jobs removed in one call */
  limit?: number
}

/** @returns how many jobs and earlier answers were removed */
export async function retain(s: Spool, r: Retention): Promise<number> {
  const jobs: string[] = []
  try {
    return await removeOld(s, r, jobs)
  } finally {
    await tellRemoved(s, jobs)
  }
}

async function removeOld(s: Spool, r: Retention, jobs: string[]): Promise<number> {
  let removed = 0
  const limit = r.limit ?? 1_000
  const needed = childrenNeeded(s)
  for (const outcome of OUTCOMES) {
    const keep = outcome === 'done' ? r.done_ms : r.failed_ms
    if (keep <= 0) continue
    for (const file of (await namesIn(s, s.layout[outcome])).sort(byId)) {
      const name = parseJobName(file)
      if (!name) continue
      if (s.clock.now() - ulidTime(name.id) < keep) break // sorted by age: the rest is younger
      if (s.clock.now() - (await finishedAt(s, name.id)) < keep) continue
      if (removed >= limit) return removed
      if (await needed(name.id)) continue
      const path = join(s.layout[outcome], file)
      if (outcome === 'done' && r.answers_ms && r.answers_ms > 0) await removeAnswer(s, path, name.id)
      await removeJob(s, path, name.id)
      jobs.push(name.id)
      removed += 1
    }
  }
  removed += await retainSuperseded(s, r.superseded_ms, limit - removed)
  await removeStrays(s)
  return removed
}

function byId(a: string, b: string): number {
  return a.slice(2) < b.slice(2) ? -1 : 1
}

/** The public answer, if it is still this job's: its result says whose it is. */
async function removeAnswer(s: Spool, path: string, id: string): Promise<void> {
  const record = await readRecord(s, path).catch(() => undefined)
  if (!record) return
  try {
    const { bytes } = await s.fs.readFile(join(s.layout.output, `${record.answer}.result.json`), 4 << 20)
    if (JSON.parse(bytes.toString('utf8')).id !== id) return
  } catch (error) {
    if (errno(error) === 'ENOENT' || error instanceof SyntaxError) return
    throw error
  }
  for (const suffix of ANSWER_SUFFIXES) {
    const file = join(s.layout.output, record.answer + suffix)
    if (suffix === '.disks') await removeTree(s, file)
    else await removeFile(s, file)
  }
}

async function retainSuperseded(s: Spool, keep: number, limit: number): Promise<number> {
  if (keep <= 0) return 0
  let removed = 0
  for (const dir of await namesIn(s, s.layout.superseded)) {
    if (removed >= limit) break
    const path = join(s.layout.superseded, dir)
    const stat = await s.fs.lstat(path).catch(() => undefined)
    if (!stat || s.clock.now() - stat.mtime_ms < keep) continue // the folder's mtime: when the last answer came here
    await removeTree(s, path)
    removed += 1
  }
  return removed
}

/** Scratch of final jobs, requests for jobs that nobody knows, notes about things that are gone. */
async function removeStrays(s: Spool): Promise<void> {
  const DAY = 86_400_000
  const requests = (await namesIn(s, s.layout.control)).filter((f) => CANCEL.test(f))
  const scratch = (await namesIn(s, s.layout.work)).filter((id) => ULID.test(id) && s.clock.now() - ulidTime(id) > DAY)
  const wanted = new Set([...scratch, ...requests.map((f) => CANCEL.exec(f)![1]!)])
  const known = await locate(s, wanted)
  // A job that moved back while we looked (a retry) was in neither place: only who is missed twice is not there.
  const again = await locate(s, new Set([...wanted].filter((id) => !known.has(id))))
  for (const id of scratch) {
    const state = (known.get(id) ?? again.get(id))?.state
    if (state === undefined || state === 'done' || state === 'cancelled' || state === 'rejected')
      await removeTree(s, join(s.layout.work, id))
  }
  for (const file of requests) {
    const id = CANCEL.exec(file)![1]!
    if (known.has(id) || again.has(id)) continue
    const stat = await s.fs.lstat(join(s.layout.control, file)).catch(() => undefined)
    if (stat && s.clock.now() - stat.mtime_ms > DAY) await removeFile(s, join(s.layout.control, file))
  }
  const queue = new Set(await namesIn(s, s.layout.queue))
  for (const file of await namesIn(s, s.layout.rejected)) {
    if (!file.startsWith('.answered-')) continue
    const path = join(s.layout.rejected, file)
    const name = await s.fs.readFile(path, 4096).then(
      (r) => r.bytes.toString('utf8').trimEnd(),
      () => undefined,
    )
    if (name !== undefined && !queue.has(name)) await removeFile(s, path)
  }
  // Temporary files of writers that were killed before their rename.
  for (const dir of [s.layout.owners, s.layout.control, s.layout.output, s.layout.daemon]) {
    for (const file of await namesIn(s, dir)) {
      if (!file.startsWith('.') || !file.endsWith('.tmp')) continue
      const stat = await s.fs.lstat(join(dir, file)).catch(() => undefined)
      if (stat?.kind === 'file' && s.clock.now() - stat.mtime_ms > DAY) await removeFile(s, join(dir, file))
    }
  }
  await forgetNamed(s, DAY)
}
