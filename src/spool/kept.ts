/**
 * Finished work of a job that failed for good. Its attempt's folder stays until retention takes it, and a job that repeats it may take
 * over what lies there: the marker in it was written by the attempt itself after all that it ran had ended, and committed with it.
 */
import { join } from 'node:path'
import { listed, namesIn, removeTree } from './moves.ts'
import { type JobName, parseJobName, ULID } from './names.ts'
import type { Spool } from './spool.ts'

export const KEEP = 'keep.json'

/** What commit() writes into the marker. */
export interface Kept {
  /** steps that need not be done again */
  steps: string[]
  bytes: number
}

/** Scratch of a job that ended as `failed`: what is not kept goes. */
export async function removeAllButKept(s: Spool, id: string, attempt: string): Promise<void> {
  const jobDir = join(s.layout.work, id)
  if (!(await listed(s, join(jobDir, attempt, KEEP)))) return removeTree(s, jobDir)
  for (const dir of await namesIn(s, jobDir, true)) if (dir !== attempt) await removeTree(s, join(jobDir, dir))
}

/** Folders of attempts with kept work of a failed job; none when it did not fail for good, or its retention has passed. */
export async function keptAttempts(s: Spool, id: string): Promise<{ dir: string; epoch: number; owner: string }[]> {
  const failed = ULID.test(id) ? await failedForGood(s, id) : undefined
  if (!failed) return []
  const jobDir = join(s.layout.work, id)
  const out: { dir: string; epoch: number; owner: string }[] = []
  for (const name of await namesIn(s, jobDir, true)) {
    const m = /^(\d+)-(.+)$/.exec(name)
    // Only what was committed: a marker is also left by a commit that did not come to its end.
    if (m && Number(m[1]) === failed.epoch && (await namesIn(s, join(jobDir, name), true)).includes(KEEP))
      out.push({ dir: join(jobDir, name), epoch: Number(m[1]), owner: m[2]! })
  }
  return out
}

/** A job has repeated it with success: nobody needs what it kept. Of another name only its own job may say so. */
export async function forgetKept(s: Spool, id: string, key: string): Promise<void> {
  if (ULID.test(id) && (await failedForGood(s, id, key))) await removeTree(s, join(s.layout.work, id))
}

async function failedForGood(s: Spool, id: string, key?: string): Promise<JobName | undefined> {
  const names = (await namesIn(s, s.layout.failed, true)).filter((f) => f.includes(id)).map(parseJobName)
  return names.find((n) => n?.id === id && (key === undefined || n.key === key))
}
