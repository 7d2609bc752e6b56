/** What the events of a spool say of its jobs, and what has become of jobs of which no event says it. */
import type { SpoolEvent } from '../spool/events.ts'
import { ULID } from '../spool/names.ts'
import type { Spool } from '../spool/spool.ts'
import { type JobRow, readJob } from './job-row.ts'
import type { ReadText } from './read-text.ts'

/** What events tell of jobs, without looking at their files. */
export interface News {
  /** id → name of its record, where the event says it */
  ended: Map<string, string | undefined>
  removed: Set<string>
  opened: Set<string>
}

/** The last word of each job counts. */
export function newsOf(events: readonly SpoolEvent[]): News {
  const news: News = { ended: new Map(), removed: new Set(), opened: new Set() }
  for (const e of events) {
    const id = e.job
    if (typeof id !== 'string' || !ULID.test(id)) continue
    if (e.event === 'removed') {
      news.removed.add(id)
      news.ended.delete(id)
      news.opened.delete(id)
    } else if (e.event === 'finished') {
      news.ended.set(id, typeof e.record === 'string' ? e.record : undefined)
      news.opened.delete(id)
      news.removed.delete(id)
    } else if (!news.ended.has(id) && !news.removed.has(id)) news.opened.add(id)
  }
  return news
}

/** Of jobs that are in no folder of the unfinished: those that have ended, and those of which nothing is left. */
export async function lookUp(
  s: Spool,
  ids: readonly string[],
  read: ReadText,
): Promise<{ ended: JobRow[]; vanished: string[] }> {
  const ended: JobRow[] = []
  const vanished: string[] = []
  for (const id of ids) {
    const row = await readJob(s.layout, id, read)
    if (row !== undefined) ended.push(row)
    else if ((await read(`${s.layout.outputJobs}/${id}/status.json`)) === undefined) vanished.push(id)
  }
  return { ended, vanished }
}
