/** The rest of an accept once its token is written, and the end of a drop that was rejected. */
import { type Accepted, acceptToken } from './accept.ts'
import { type Claim, openClaim } from './attempt.ts'
import type { JobRecord } from './record.ts'
import type { Spool } from './spool.ts'
import { commitUnrun } from './unrun.ts'

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
export function commitRejection(s: Spool, c: Claim): Promise<'committed' | 'fenced'> {
  const { record } = c
  return commitUnrun(s, c, 'rejected', {
    code: 'rejected',
    message: record.rejected?.message ?? 'The drop was rejected.',
    attempt: 0,
    result: { diagnostics: record.diagnostics, quarantine: record.quarantine },
  })
}
