/** Waiting for a job to end, without a fixed timeout and without silence. */
import { startCommand } from '../spool/start-command.ts'
import { watchAgents, pause } from './liveness.ts'
import { ClientError } from './errors.ts'
import type { Place } from './place.ts'
import { type JobStatus, isFinal, settled, statusOf } from './status.ts'
import { acceptedJob, type Submission } from './submit.ts'

export interface WaitOptions {
  /** give up after this long, in ms; without it the wait has no end of its own */
  timeoutMs?: number
  /** give up when no agent has been alive for this long, in ms; Infinity waits for one to come back. Default 120 000 */
  agentGraceMs?: number
  signal?: AbortSignal
  /** called whenever the status file changed */
  onStatus?(status: JobStatus): void
  /** called when the agents went away, or one came back */
  onAgents?(state: 'gone' | 'back', graceMs: number): void
}

export const defaultAgentGraceMs = 120_000

/** How often the status file is opened, in ms. */
const pollMs = 200

/**
 * Waits until the job has ended and returns its last status, whatever the outcome.
 * @throws ClientError 124 on timeout, 130 when aborted, 69 when no agent has been alive for `agentGraceMs`. The job is
 *   left where it is in all three cases.
 */
export async function waitForJob(place: Place, job: string | Submission, o: WaitOptions = {}): Promise<JobStatus> {
  const start = performance.now()
  const leaseMs = place.config.lease.timeout
  const grace = o.agentGraceMs ?? defaultAgentGraceMs
  const watcher = watchAgents(place, leaseMs)
  let id = typeof job === 'string' ? job : undefined
  const label = (): string => (id === undefined ? `The drop ${(job as Submission).drop_file}` : `Job ${id}`)
  let last = ''
  let lastAlive = performance.now()
  let gone = false
  let nextLook = 0
  for (;;) {
    const now = performance.now()
    let status: JobStatus | undefined
    if (id === undefined) {
      status = await acceptedJob(place, job as Submission)
      id = status?.id
    } else {
      status = await statusOf(place, id)
    }
    if (status !== undefined) {
      const text = JSON.stringify(status)
      if (text !== last) o.onStatus?.(status)
      last = text
      if (isFinal(status)) return status
    }
    if (now >= nextLook && status?.direct) {
      nextLook = now + 1000
      lastAlive = now // it needs no agent, but somebody has to see that its shim was killed
      const over = await settled(place, status)
      if (over !== undefined && isFinal(over)) continue
    } else if (now >= nextLook) {
      nextLook = now + 1000
      // An unknown lease (another host's, not yet watched for its lifetime) gets the benefit of the doubt.
      const alive = (await watcher.look()).some((a) => a.state !== 'dead')
      if (alive) lastAlive = now
      if (alive === gone) {
        gone = !alive
        o.onAgents?.(gone ? 'gone' : 'back', grace)
      }
    }
    if (now - lastAlive >= grace) {
      throw new ClientError(
        69,
        `${label()} was not finished, and no agent of "${place.instance}" has been alive for ${Math.round(grace / 1000)} s. ` +
          `It stays in the spool and is worked on as soon as an agent runs: ${startCommand(place.layout)}`,
      )
    }
    if (o.timeoutMs !== undefined && now - start >= o.timeoutMs) {
      throw new ClientError(
        124,
        `${label()} had not ended after ${Math.round(o.timeoutMs / 1000)} s${status === undefined ? '; no agent has accepted it yet' : ` (state: ${status.state}${status.phase ? `, ${status.phase}` : ''})`}. ` +
          (id === undefined ? 'It stays in the queue until one does.' : `It goes on without us: vmspool status ${id}`),
      )
    }
    try {
      await pause(Math.min(pollMs, Math.max(1, (o.timeoutMs ?? Number.POSITIVE_INFINITY) - (now - start))), o.signal)
    } catch (error) {
      throw interrupted(label(), id, error)
    }
  }
}

function interrupted(label: string, id: string | undefined, cause: unknown): ClientError {
  const next = id === undefined ? '' : ` See vmspool status ${id}, or stop it with vmspool cancel ${id}.`
  return new ClientError(
    130,
    `The wait was interrupted; ${label.replace(/^./, (c) => c.toLowerCase())} goes on.${next}`,
    { cause },
  )
}
