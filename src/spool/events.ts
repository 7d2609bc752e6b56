/** <output>/.daemon/events.jsonl: what happened, one line each, for whoever follows. */
import { join } from 'node:path'
import type { Spool } from './spool.ts'

export interface SpoolEvent {
  event: string
  job?: string
  name?: string
  [field: string]: unknown
}

/** Appends one event (O_APPEND, one write: lines of several agents do not mix on a local disk). Not fsynced: the folders are the truth. */
export async function appendEvent(s: Spool, e: SpoolEvent | readonly SpoolEvent[]): Promise<void> {
  const at = new Date(s.clock.now()).toISOString()
  const lines = (Array.isArray(e) ? e : [e as SpoolEvent]).map(
    (x) => `${JSON.stringify({ at, ...x, owner: s.owner?.id })}\n`,
  )
  if (lines.length > 0) await s.fs.appendFile(join(s.layout.daemon, 'events.jsonl'), lines.join(''), 0o644)
}
