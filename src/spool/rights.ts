/** Whose requests count. control/ may be open to everybody who submits, so a file in it says only that its owner asks. */
import { type FoundJob, locate } from './find.ts'
import { readRecord } from './record.ts'
import type { Spool } from './spool.ts'

/** Root and the agents' own user; agents leave each other requests. */
export function isOurs(uid: number): boolean {
  return uid === 0 || uid === process.geteuid?.()
}

interface Asked {
  id: string
  /** who owns the request's file; undefined when it could not be read */
  uid: number | undefined
}

/** What was found out, by job and user: a request is looked at every second until its job has ended. */
const verdicts = new WeakMap<Spool, Map<string, boolean>>()

/**
 * Requests by whoever dropped the job, by root and the agents' user, and by members of the agents' group, who may use the control
 * socket too. One that cannot be judged yet (its job is on its way from one folder to the next) is left for the next round.
 */
export async function permitted<T extends Asked>(
  s: Spool,
  requests: readonly T[],
): Promise<{ allowed: T[]; refused: T[] }> {
  const allowed: T[] = []
  const refused: T[] = []
  const known = verdicts.get(s) ?? new Map<string, boolean>()
  verdicts.set(s, known)
  const open = requests.filter((r) => r.uid === undefined || (!isOurs(r.uid) && !known.has(`${r.id} ${r.uid}`)))
  const found = await locate(s, new Set(open.map((r) => r.id)))
  for (const r of requests) {
    if (r.uid !== undefined && isOurs(r.uid)) {
      allowed.push(r)
      continue
    }
    const key = `${r.id} ${r.uid}`
    const verdict = known.get(key) ?? (await judge(s, r, found.get(r.id)))
    if (verdict === undefined) continue
    if (r.uid !== undefined) known.set(key, verdict)
    ;(verdict ? allowed : refused).push(r)
  }
  const asked = new Set(requests.map((r) => `${r.id} ${r.uid}`))
  for (const key of known.keys()) if (!asked.has(key)) known.delete(key)
  return { allowed, refused }
}

async function judge(s: Spool, r: Asked, job: FoundJob | undefined): Promise<boolean | undefined> {
  if (r.uid === undefined) return false
  if (job === undefined) return undefined
  let dropped: number
  try {
    dropped = (await readRecord(s, job.path)).drop.uid
  } catch {
    return undefined
  }
  return dropped === r.uid || isOperator(r.uid)
}

async function isOperator(uid: number): Promise<boolean> {
  const { submitterOf } = await import('../images/submitter.ts')
  const group = process.getegid?.() ?? 0
  return (await submitterOf(uid, -1)).groups.includes(group)
}
