/** The rest of an accept once its token is written, and the end of a drop that was rejected. */
import { type Accepted, acceptToken } from './accept.ts'
import { type Claim, openClaim } from './attempt.ts'
import { commit } from './commit.ts'
import type { JobRecord } from './record.ts'
import type { Spool } from './spool.ts'

/** Tokens that are written go the rest of the way; rejected ones are committed at once. */
export async function finish(s: Spool, folder: string, records: readonly JobRecord[]): Promise<Accepted[]> {
  const out: Accepted[] = []
  for (const record of records) {
    const accepted = await acceptToken(s, folder, record)
    if (!accepted) continue
    out.push(accepted)
    if (accepted.state === 'claimed') await commitRejected(s, accepted)
  }
  return out
}

async function commitRejected(s: Spool, a: Accepted): Promise<'committed' | 'fenced'> {
  const c = await openClaim(s, a.name)
  if (!c) return 'fenced'
  return commitRejection(s, c)
}

/** Commits a claimed job whose record says that it was rejected: also one that a reaper gave back. */
export async function commitRejection(s: Spool, c: Claim): Promise<'committed' | 'fenced'> {
  const at = new Date(s.clock.now()).toISOString()
  const { name, record } = c
  const reason = record.rejected?.message ?? 'The drop was rejected.'
  const base = { schema: 1, id: name.id, name: record.answer, kind: record.kind, state: 'rejected', epoch: name.epoch }
  return commit(s, c, 'rejected', {
    error: reason,
    result: {
      ...base,
      error: { code: 'rejected', message: reason },
      diagnostics: record.diagnostics,
      quarantine: record.quarantine,
      finished_at: at,
    },
    status: {
      ...base,
      reason,
      since: at,
      finished_at: at,
      attempt: 0,
      priority: name.priority,
      accepted_at: record.drop.at,
      drop_file: record.drop.file,
    },
  })
}
