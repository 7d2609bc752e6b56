/** Ends that no handler decided: a rejected drop, a job cancelled while it waited, one whose agents kept dying. */
import type { Claim } from './attempt.ts'
import { commit } from './commit.ts'
import type { Outcome } from './names.ts'
import { familyFields } from './record.ts'
import type { Spool } from './spool.ts'

/** What has to be done before a job is committed that no handler ends: the run that follows it is made. */
export type Ending = (c: Claim) => Promise<unknown>

/** Commits a claim that was not run, with the reason as its error, its result and its last status. */
export function commitUnrun(
  s: Spool,
  c: Claim,
  outcome: Exclude<Outcome, 'done'>,
  o: { code: string; message: string; hint?: string; attempt: number; result?: Record<string, unknown> },
): Promise<'committed' | 'fenced'> {
  const at = new Date(s.clock.now()).toISOString()
  const { name, record } = c
  const base = {
    schema: 1,
    id: name.id,
    name: record.answer,
    kind: record.kind,
    state: outcome,
    epoch: name.epoch,
    attempt: o.attempt,
    priority: name.priority,
    accepted_at: record.drop.at,
    drop_file: record.drop.file,
    ...familyFields(record),
    finished_at: at,
  }
  return commit(s, c, outcome, {
    error: o.hint === undefined ? o.message : `${o.message}\n${o.hint}`,
    result: { ...base, error: { code: o.code, message: o.message, hint: o.hint }, ...o.result },
    status: { ...base, reason: o.message, since: at },
  })
}
