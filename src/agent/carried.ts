/**
 * Commands that run on this host under shims, without an agent that looks after them. Their jobs are taken up again, and the
 * next attempt adopts them; one whose job went on elsewhere, or is over, works for nobody and is ended.
 */
import { readdirSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { SHIM_FOLDER } from '../jobs/command.ts'
import { bootId, pidNamespace, shimState, stopShim } from '../process/index.ts'
import type { AbortReason } from '../jobs/types.ts'
import { locate, readOwners, type Spool } from '../spool/index.ts'
import { ownerProcess } from './children.ts'
import type { Agent } from './state.ts'

function live(dir: string): boolean {
  try {
    const { state } = shimState(dir)
    return state === 'running' || state === 'orphaned'
  } catch {
    return false // not ours to look into, and so not ours to end
  }
}

/** Whether a program of this job runs here. */
export function carries(s: Spool, id: string): boolean {
  return shimsOf(s, id).some(live)
}

function shimsOf(s: Spool, id: string): string[] {
  const dir = join(s.layout.work, id)
  try {
    return readdirSync(dir).map((attempt) => join(dir, attempt, SHIM_FOLDER))
  } catch {
    return []
  }
}

/** What a command's job is told when its agent goes. */
export const leaving: AbortReason = {
  kind: 'drain',
  message: 'The agent was stopped; the program goes on without it, and the next agent of this host takes it up.',
  leave: true,
}

/** Whether all agents of the spool are on this host: then what is left running here is found by whoever claims its job. */
export async function aloneOnThisHost(s: Spool): Promise<boolean> {
  return (await readOwners(s)).every((lease) => lease.boot_id === bootId() && lease.pidns === pidNamespace())
}

/** Whether an owner is an agent of this very boot and pid namespace: it looks after what it claims. */
function isHere(owner: string): boolean {
  const p = ownerProcess(owner)
  return p !== undefined && bootId().startsWith(p.boot) && p.pidns === pidNamespace()
}

/**
 * Looks after them, round by round: the first looks at all attempts there are, the others only at what was found running.
 * What is to be ended is found so twice in a row, since a job can be between two folders while we look.
 */
export function carriedRound(a: Agent): { round(): Promise<void>; lookAgain(): void } {
  let candidates: Set<string> | undefined
  let suspects = new Set<string>()
  return {
    lookAgain() {
      candidates = undefined
    },
    async round() {
      if (a.fenced || !a.spool.owner) return
      const { spool } = a
      candidates ??= new Set(await readdir(spool.layout.work).catch(() => [] as string[]))
      for (const id of candidates) if (a.running.has(id) || !carries(spool, id)) candidates.delete(id)
      if (candidates.size === 0) return
      const jobs = await locate(spool, candidates)
      const before = suspects
      suspects = new Set()
      for (const id of candidates) {
        const job = jobs.get(id)
        const waits = job && (job.state === 'new' || job.state === 'held')
        if (waits || (job?.state === 'claimed' && job.owner !== undefined && isHere(job.owner))) continue
        if (before.has(id))
          await end(
            a,
            id,
            job === undefined
              ? 'nobody knows its job'
              : `its job is ${job.state}${job.owner ? ` by ${job.owner}` : ''}`,
          )
        else suspects.add(id)
      }
    },
  }
}

async function end(a: Agent, id: string, why: string): Promise<void> {
  for (const dir of shimsOf(a.spool, id).filter(live)) {
    try {
      await stopShim(dir, { by: 'vmspool:left-over', graceMs: a.config.timeouts.kill_grace })
      a.metrics.inc('vmspool_leftover_groups_ended_total')
      a.log.warn('job.leftover-ended', { job: id, why })
    } catch (error) {
      a.log.error('job.leftover-stays', { job: id, error })
    }
  }
}
