/** Ending a job that runs, and seeing to it that it has ended: the process and all that it started. */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { shimState, type ShimState, stopShim } from '../process/index.ts'
import { readRecord } from '../spool/record.ts'
import { runFolder, settleStarted } from '../spool/settle.ts'
import { directFile } from '../spool/started.ts'
import { startCommand } from '../spool/start-command.ts'
import { parseJobName } from '../spool/names.ts'
import { askToCancel, userName } from './cancel.ts'
import { ClientError } from './errors.ts'
import { liveAgent, pause } from './liveness.ts'
import type { Place } from './place.ts'
import { isFinal, type JobStatus, settled, statusOf } from './status.ts'

export interface StopOptions {
  /** KILL at once */
  force?: boolean
  /** between the signal that asks it to end and KILL, in ms; default: as the job has it */
  graceMs?: number
  signal?: AbortSignal
  /** called once, when it takes longer than a moment */
  onWait?(status: JobStatus): void
}

export interface Stopped {
  /** the last that is known of the job */
  status: JobStatus
  /** its process was ended by KILL */
  killed: boolean
  /** what is left to be done, and by whom; undefined when the job has ended */
  pending?: string
}

/**
 * Ends a job: TERM, and KILL after a grace, to everything that it started; one that waits is cancelled. Returns when nothing of it runs
 * any more. The processes are those that the job's own records name: never a recycled pid, never one of an earlier boot.
 * @throws ClientError 1 when it does not run, or when it survives KILL; 69 when only another host can end it; 77 when it is another
 *   user's; 130 when aborted
 */
export async function stopJob(place: Place, status: JobStatus, o: StopOptions = {}): Promise<Stopped> {
  if (isFinal(status)) throw notRunning(status)
  try {
    return await (status.direct ? stopDirect(place, status, o) : stopOfAgent(place, status, o))
  } catch (error) {
    const { code, path } = error as NodeJS.ErrnoException
    if (code !== 'EACCES' && code !== 'EPERM') throw error
    throw new ClientError(
      77,
      `Task operation failed: ${status.id} - ${path ?? 'its process'} may not be used by this user (${code}). Stop it as whoever started it, or as root.`,
      { cause: error },
    )
  }
}

/** Ghost's words. */
function notRunning(status: JobStatus): ClientError {
  return new ClientError(1, `Task operation failed: ${status.id} - Task is not running (status: ${status.state})`)
}

async function stopDirect(place: Place, status: JobStatus, o: StopOptions): Promise<Stopped> {
  const dir = runFolder(place.spool, status.id)
  const file = directFile(status.id, status.name)
  const path = join(place.layout.started, file)
  const { command } = (await readRecord(place.spool, path)).manifest as {
    command: { kill_signal?: string; kill_grace_ms?: number }
  }
  const before = shimState(dir)
  if (before.state === 'elsewhere') throw elsewhere(status, before.process.host)
  const timer = setTimeout(() => o.onWait?.(status), 500)
  let after: ShimState
  try {
    after = await stopShim(dir, {
      by: userName(),
      graceMs: o.graceMs ?? command.kill_grace_ms ?? place.config.timeouts.kill_grace,
      ...(command.kill_signal === undefined ? {} : { signal: command.kill_signal }),
      ...(o.force ? { force: true } : {}),
    })
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== undefined) throw error
    throw new ClientError(1, `Task operation failed: ${status.id} - ${(error as Error).message}`, { cause: error })
  } finally {
    clearTimeout(timer)
  }
  // Only a shim that was there could record who stopped it.
  await settleStarted(
    place.spool,
    { name: parseJobName(file)!, state: 'started', path },
    before.state === 'orphaned' ? { stoppedBy: userName() } : {},
  )
  const now = (await statusOf(place, status.id)) ?? status
  return { status: now, killed: after.state === 'ended' && after.exit.signal === 'SIGKILL' }
}

/** How often we look what an agent has made of our request, in ms. */
const POLL_MS = 100

/** The agent is asked, and goes about it as it does with every job; when there is none, what runs on this host is ended from here. */
async function stopOfAgent(place: Place, status: JobStatus, o: StopOptions): Promise<Stopped> {
  await askToCancel(place, status, o.force ? { force: true } : {})
  if ((await liveAgent(place, place.config.lease.timeout, o.signal ? { signal: o.signal } : {})) === undefined)
    return withoutAgent(place, status, o)
  let told = false
  const start = performance.now()
  let nextLook = start + 5000
  for (;;) {
    const now = await settled(place, await statusOf(place, status.id))
    if (now === undefined || isFinal(now))
      return { status: now ?? status, killed: now?.signal === 'SIGKILL' || o.force === true }
    if (!told && performance.now() - start > 500) {
      told = true
      o.onWait?.(now)
    }
    if (performance.now() > nextLook) {
      if ((await liveAgent(place, place.config.lease.timeout)) === undefined) return withoutAgent(place, now, o)
      nextLook = performance.now() + 5000
    }
    try {
      await pause(POLL_MS, o.signal)
    } catch (error) {
      throw new ClientError(
        130,
        `The wait was interrupted. The request to stop job ${status.id} stays; see vmspool status ${status.id}.`,
        { cause: error },
      )
    }
  }
}

async function withoutAgent(place: Place, status: JobStatus, o: StopOptions): Promise<Stopped> {
  const request = `No agent of "${place.instance}" is alive. The request stays in ${place.layout.control}, and job ${status.id} becomes cancelled when one runs: ${startCommand(place.layout)}`
  let killed = false
  let ended = false
  const work = join(place.layout.work, status.id)
  for (const attempt of await readdir(work).catch(() => [])) {
    const dir = join(work, attempt, 'run')
    const before = shimState(dir)
    if (before.state === 'elsewhere') throw elsewhere(status, before.process.host)
    if (before.state !== 'running' && before.state !== 'orphaned') continue
    const graceMs = o.graceMs ?? place.config.timeouts.kill_grace
    const after = await stopShim(dir, { by: userName(), graceMs, ...(o.force ? { force: true } : {}) })
    ended = true
    killed ||= after.state === 'ended' && after.exit.signal === 'SIGKILL'
  }
  const pending = ended ? `${request}. Its process was ended from here.` : `${request}.`
  return { status, killed, pending }
}

function elsewhere(status: JobStatus, host: string): ClientError {
  return new ClientError(
    69,
    `Task operation failed: ${status.id} - its process is on the host ${host}, or in another container of this one, and no agent there answers. Stop it there.`,
  )
}
