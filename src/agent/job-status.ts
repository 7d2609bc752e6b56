/**
 * Status files of the jobs at hand: the newest state of a job is what is written next, at most about twice a second for
 * mere progress. Before a commit a job's writing ends, so that no late "running" follows its final status.
 */
import { type JobStatus, type Spool, writeStatus } from '../spool/index.ts'

export interface StatusWriter {
  /** writes soon; `progress` may wait for the next half second */
  set(status: JobStatus, kind?: 'progress'): void
  /** nothing more is written for this job until it is set again by `reopen`; waits for a write under way */
  close(id: string): Promise<void>
  /** writes now, after `close`, and waits for it */
  last(status: JobStatus): Promise<void>
  /** takes a job up again: a new attempt */
  reopen(id: string): void
  flush(): Promise<void>
}

const PROGRESS_MS = 450

interface Entry {
  next: JobStatus | undefined
  writing: Promise<void> | undefined
  timer: NodeJS.Timeout | undefined
  writtenAt: number
  closed: boolean
}

export function createStatusWriter(spool: Spool, onError: (id: string, e: unknown) => void): StatusWriter {
  const entries = new Map<string, Entry>()
  const entry = (id: string): Entry => {
    let e = entries.get(id)
    if (!e) {
      e = { next: undefined, writing: undefined, timer: undefined, writtenAt: Number.NEGATIVE_INFINITY, closed: false }
      entries.set(id, e)
    }
    return e
  }
  function write(id: string, e: Entry): void {
    clearTimeout(e.timer)
    e.timer = undefined
    if (e.writing || !e.next) return
    const status = e.next
    e.next = undefined
    e.writtenAt = performance.now()
    e.writing = writeStatus(spool, status)
      .catch((error) => onError(id, error))
      .finally(() => {
        e.writing = undefined
        if (e.next && !e.closed) later(id, e)
        else if (!e.next && !e.timer && !e.closed) entries.delete(id)
      })
  }
  function later(id: string, e: Entry): void {
    const wait = e.writtenAt + PROGRESS_MS - performance.now()
    if (wait <= 0) write(id, e)
    else e.timer ??= setTimeout(() => write(id, e), wait)
  }
  return {
    set(status, kind) {
      const e = entry(status.id)
      if (e.closed) return
      e.next = status
      if (kind === 'progress') later(status.id, e)
      else write(status.id, e)
    },
    async close(id) {
      const e = entry(id)
      e.closed = true
      e.next = undefined
      clearTimeout(e.timer)
      e.timer = undefined
      await e.writing
    },
    async last(status) {
      await writeStatus(spool, status).catch((error) => onError(status.id, error))
    },
    reopen(id) {
      entries.delete(id)
    },
    async flush() {
      for (const [id, e] of entries) if (!e.closed) write(id, e)
      await Promise.all([...entries.values()].map((e) => e.writing))
    },
  }
}
