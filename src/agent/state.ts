/** What the parts of one agent share. Changed by the event loop alone, so no lock guards it. */
import type { Config } from '../config/index.ts'
import type { AbortReason, JobProgress } from '../jobs/types.ts'
import type { GaugeSample, Logger, Metrics } from '../observe/index.ts'
import type { Claim, HeldNames, JobName, Plan, Spool } from '../spool/index.ts'
import type { Vms } from '../vm/index.ts'
import type { Batches } from './batches.ts'
import type { Dependencies } from './dependencies.ts'
import type { Events } from './events.ts'
import type { LoopHealth } from './loop.ts'

export interface RunningJob {
  name: JobName
  claim: Claim
  weight: number
  started_at: string
  /** monotonic, ms */
  since: number
  abort(reason: AbortReason): void
  aborted?: AbortReason
  progress: JobProgress
  /** what it only waits for, having given its place to others meanwhile */
  waiting?: string | undefined
  /** the handler has returned; the outcome is being committed */
  ending: boolean
}

/** The VM service of this process, see vms.ts. */
export interface AgentVms {
  /** of an agent that is ready: opens it when there is something to look after */
  begin(): void
  /** opens it when it is not open. @throws VmError when the folder of the VMs cannot be used; asked again it tries again */
  service(): Promise<Vms>
  /** once it is open */
  opened(): Vms | undefined
  /** for the control socket; undefined while it is not open */
  status(): Promise<Record<string, unknown> | undefined>
  gauges(): Promise<GaugeSample[]>
  /** for the statistics, as seen last; empty while there is nothing to look after */
  counts(): { vms?: Record<string, number> }
  close(): Promise<void>
}

export interface Agent {
  readonly spool: Spool
  readonly log: Logger
  readonly metrics: Metrics
  readonly events: Events
  readonly batches: Batches
  /** of the main agent: the jobs that come after others */
  readonly dependencies: Dependencies | undefined
  readonly held: HeldNames
  readonly vms: AgentVms
  readonly started: Date
  readonly worker: boolean
  readonly version: string
  config: Config
  plan: Plan | undefined
  /** by job id */
  readonly running: Map<string, RunningJob>
  /** job ids between the decision to claim and the end of everything that follows it */
  readonly inFlight: Set<string>
  /** every owner id this process ever had: attempts under them have ended when they are not running */
  readonly ownOwners: Set<string>
  readonly loops: LoopHealth[]
  paused: boolean
  /** no new work is begun; ends when nothing runs any more */
  draining: boolean
  diskFull: { free_bytes: number; reserve_bytes: number } | undefined
  /** monotonic time when a job was last taken, moved on or ended */
  lastMove: number
  /** nothing may be begun under the present owner: it was fenced and a new one is being started */
  fenced: boolean
  /** set by the scheduler: something changed that may let a job start */
  dispatch(): void
  /** set by the publisher: something lies in committed/ */
  publish(): void
  /** set by the tick's loop: a held job may be moved on */
  tick(): void
}

/** Why the queue does not move just now, as a sentence; undefined when it does. */
export function heldBecause(a: Agent): string | undefined {
  return held(a)?.because
}

/** What everything in the queue waits for just now, as the end of "waiting for …": for status files; undefined while it moves. */
export function heldUntil(a: Agent): string | undefined {
  return held(a)?.until
}

function held(a: Agent): { because: string; until: string } | undefined {
  if (a.paused) {
    const how = `resume it with: vmspool daemon resume --instance ${a.spool.layout.instance}`
    return { because: `the instance is paused (${how})`, until: `the instance, which is paused (${how})` }
  }
  if (a.draining)
    return {
      because: 'the agent is draining: it begins nothing new, and the next agent goes on',
      until: 'the next agent: this one is draining and begins nothing new',
    }
  if (a.fenced)
    return {
      because: 'the agent lost its lease and is starting again',
      until: 'its agent, which lost its lease and is starting again',
    }
  if (a.diskFull) {
    const mib = (n: number): string => `${Math.round(n / 1_048_576)} MiB`
    const room = `${mib(a.diskFull.free_bytes)} free below ${a.spool.layout.output}, ${mib(a.diskFull.reserve_bytes)} must stay free (space.reserve_bytes)`
    return { because: `the disk is full: ${room}`, until: `space: ${room}` }
  }
  return undefined
}
