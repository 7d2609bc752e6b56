import { readFile, stat } from 'node:fs/promises'
import type { ProcessIdentity } from '../process/index.ts'
import { ImageError } from '../images/index.ts'
import { freeBytes } from './space.ts'

/** Watches over a copy while it runs: free space, and that anything happens at all. */
export interface Watch {
  /** aborted with an {@link ImageError} (no-space, stalled) or with the outer signal's reason */
  signal: AbortSignal
  spawned(id: ProcessIdentity): void
  /** anything that shows progress */
  mark(value: number): void
  abort(reason: unknown): void
  stop(): void
}

export function watchCopy(o: {
  dir: string
  outputs: readonly string[]
  reserve: number
  timeoutMs: number
  outer: AbortSignal
  phase: string
  /** what works; default: the copy */
  what?: string
}): Watch {
  const what = o.what ?? 'The copy'
  const own = new AbortController()
  const pids: number[] = []
  let marked = 0
  let last = ''
  let since = performance.now()
  let busy = false
  const look = async (): Promise<void> => {
    const free = await freeBytes(o.dir)
    // the reserve is what others need to go on; using it up is as bad as a full disk
    if (free < o.reserve) {
      own.abort(
        new ImageError(
          `The filesystem of ${o.dir} is nearly full: ${free} bytes are free and ${o.reserve} are kept in reserve. ${what} was stopped.`,
          {
            code: 'no-space',
            transient: true,
            phase: o.phase,
            hint: 'Free space there; the job is tried again.',
          },
        ),
      )
    }
    if (o.timeoutMs <= 0) return
    const now = `${marked}|${await Promise.all(pids.map(ioOf))}|${await Promise.all(o.outputs.map(blocksOf))}`
    if (now !== last) {
      last = now
      since = performance.now()
    } else if (performance.now() - since >= o.timeoutMs) {
      own.abort(
        new ImageError(
          `${what} made no progress for ${Math.round(o.timeoutMs / 1000)} s: nothing was read, nothing was written.`,
          {
            code: 'stalled',
            transient: true,
            phase: o.phase,
            hint: 'Look for a hanging disk or network filesystem under source or output; convert.no_progress_timeout sets the limit.',
          },
        ),
      )
    }
  }
  const period = o.timeoutMs > 0 ? Math.min(1000, Math.max(50, o.timeoutMs / 4)) : 1000
  const timer = setInterval(() => {
    if (busy) return
    busy = true
    look()
      .catch(() => undefined)
      .finally(() => {
        busy = false
      })
  }, period)
  return {
    signal: AbortSignal.any([o.outer, own.signal]),
    spawned: (id) => void pids.push(id.pid),
    mark: (v) => {
      marked = v
    },
    abort: (reason) => own.abort(reason),
    stop: () => clearInterval(timer),
  }
}

/** What a child has read and written so far; a child that is gone or not ours to look at counts as unchanged. */
async function ioOf(pid: number): Promise<string> {
  return readFile(`/proc/${pid}/io`, 'latin1').then(
    (t) => t.replace(/\s+/g, ' '),
    () => '',
  )
}

async function blocksOf(path: string): Promise<number> {
  return stat(path).then(
    (s) => s.blocks,
    () => 0,
  )
}
