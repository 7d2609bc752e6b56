/**
 * Children that outlived their agent. Each attempt's folder names the process groups it started; before a job runs again,
 * those of earlier attempts are ended where this host can tell that they are ours.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { EarlierAttempt } from '../jobs/types.ts'
import {
  bootId,
  endGroup,
  isLocal,
  ownMembers,
  type ProcessIdentity,
  pidNamespace,
  processStat,
} from '../process/index.ts'
import type { Claim } from '../spool/index.ts'

const FILE = 'children.json'

/** Written before anything else happens with the child; no fsync, for a power loss ends the children too. */
export function childRecorder(attemptDir: string): (id: ProcessIdentity) => void {
  const groups: ProcessIdentity[] = []
  return (id) => {
    groups.push(id)
    writeFileSync(join(attemptDir, FILE), `${JSON.stringify({ schema: 1, groups })}\n`, { mode: 0o600 })
  }
}

/** The children have ended: nothing for a later agent to do. */
export async function forgetChildren(attemptDir: string): Promise<void> {
  await rm(join(attemptDir, FILE), { force: true })
}

function recorded(attemptDir: string): ProcessIdentity[] {
  try {
    const { groups } = JSON.parse(readFileSync(join(attemptDir, FILE), 'utf8'))
    return Array.isArray(groups) ? groups.filter((g) => Number.isInteger(g?.pid) && g.pid > 1) : []
  } catch {
    return []
  }
}

/** What an owner's id says about its process: `<host>.<boot id, 8>.<pid namespace>.<pid>.<start>.<random>`. */
export function ownerProcess(
  owner: string,
): { boot: string; pidns: number; pid: number; start_ticks: number } | undefined {
  const m = /^[\w-]+\.([0-9a-f]{8})\.(\d+)\.(\d+)\.(\d+)\.[0-9a-f]+$/.exec(owner)
  return m ? { boot: m[1] as string, pidns: Number(m[2]), pid: Number(m[3]), start_ticks: Number(m[4]) } : undefined
}

/** Whether that agent's process is certainly gone; false when only another host could tell. */
export function agentGone(owner: string): boolean {
  const p = ownerProcess(owner)
  if (!p || !bootId().startsWith(p.boot) || p.pidns !== pidNamespace()) return false
  const s = processStat(p.pid)
  return s === undefined || s.start_ticks !== p.start_ticks || s.state === 'Z' || s.state === 'X'
}

/**
 * Ends what earlier attempts of a job left running on this host. They are fenced, for the job has a later epoch.
 * @param own owner ids of this very process
 * @returns the attempts, `dead` where nothing of them can write any more
 */
export async function endEarlier(
  earlier: Claim['earlier'],
  own: ReadonlySet<string>,
  o: { graceMs: number; onEnded: (group: ProcessIdentity, attempt: { dir: string; owner: string }) => void },
): Promise<EarlierAttempt[]> {
  const out: EarlierAttempt[] = []
  for (const attempt of earlier) {
    const groups = recorded(attempt.dir)
    for (const g of groups) {
      if (ownMembers(g).length === 0) continue
      await endGroup(g, o.graceMs)
      o.onEnded(g, attempt)
    }
    const dead = own.has(attempt.owner) || (agentGone(attempt.owner) && groups.every(isLocal))
    out.push({ ...attempt, dead })
  }
  return out
}
