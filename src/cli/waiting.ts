/** Waiting on the command line: progress, Ctrl-C, and the exit code that says how it went. */
import { type Command, InvalidArgumentError } from 'commander'
import { ClientError } from '../client/errors.ts'
import type { Place } from '../client/place.ts'
import type { Submission } from '../client/submit.ts'
import { defaultAgentGraceMs, waitForJob } from '../client/wait.ts'
import type { JobStatus } from '../spool/index.ts'
import { startCommand } from '../spool/start-command.ts'
import { exitCodes } from './errors.ts'
import { progressView } from './progress.ts'
import { duration, parseDuration } from './units.ts'

export interface WaitFlags {
  timeout?: number
  agentGrace: number
  quiet?: boolean
}

export function waitFlags(command: Command): Command {
  return command
    .option(
      '--timeout <duration>',
      'with --wait: give up after this long, exit code 124 (the job goes on)',
      parseDuration,
    )
    .option(
      '--agent-grace <duration>',
      'with --wait: give up when no agent has been alive for this long, exit code 69 (the job stays queued); "never" waits on',
      parseGrace,
      defaultAgentGraceMs,
    )
    .option('-q, --quiet', 'no progress')
}

export function parseGrace(text: string): number {
  if (text === 'never') return Number.POSITIVE_INFINITY
  try {
    return parseDuration(text)
  } catch {
    throw new InvalidArgumentError(`"${text}" is no duration. Write a number of seconds, 90s, 5m, or never.`)
  }
}

/** The exit code of a job that ended. */
export function outcomeCode(status: JobStatus): number {
  if (status.state === 'succeeded') return exitCodes.ok
  return status.state === 'rejected' ? exitCodes.badManifest : exitCodes.jobFailed
}

/**
 * Waits for all of them side by side and shows how far they are. `ended` has those that ended, `latest` the last that was seen
 * of each. The exit code is the first that is not 0.
 */
export function waitForAll(place: Place, jobs: readonly (string | Submission)[], o: WaitFlags): Promise<Waited> {
  return waitForEach(
    jobs.map((job) => ({ place, job })),
    o,
  )
}

interface Waited {
  ended: (JobStatus | undefined)[]
  latest: (JobStatus | undefined)[]
  exitCode: number
}

/** The same for jobs of several spools; with `any` until the first has ended, whose outcome is the exit code then. */
export async function waitForEach(
  jobs: readonly { place: Place; job: string | Submission }[],
  o: WaitFlags & { any?: boolean },
): Promise<Waited> {
  const view = await progressView({ quiet: o.quiet === true, jobs: jobs.length })
  const interrupt = interruptSignal()
  const agents = new Map<Place, string>()
  const errors: unknown[] = []
  const first = new AbortController()
  const latest: (JobStatus | undefined)[] = jobs.map(() => undefined)
  try {
    const ended = await Promise.all(
      jobs.map(async ({ place, job }, i) => {
        try {
          const end = await waitForJob(place, job, {
            ...(o.timeout === undefined ? {} : { timeoutMs: o.timeout }),
            agentGraceMs: o.agentGrace,
            signal: o.any ? AbortSignal.any([interrupt.signal, first.signal]) : interrupt.signal,
            onStatus: (status) => {
              latest[i] = status
              view.update(status)
            },
            onAgents: (state, graceMs) => {
              if (agents.get(place) === state) return
              agents.set(place, state)
              view.note(agentsText(place, state, graceMs))
            },
          })
          if (o.any) first.abort()
          return end
        } catch (error) {
          if (first.signal.aborted) return undefined // another one has ended
          errors.push(error)
          if (o.any) first.abort()
          return undefined
        }
      }),
    )
    view.stop()
    for (const error of errors) {
      if (!(error instanceof ClientError)) throw error
      process.stderr.write(`vmspool: ${error.message}\n`)
    }
    const codes = ended.map((s) => (s === undefined ? exitCodes.ok : outcomeCode(s)))
    const waitCode = (errors[0] as ClientError | undefined)?.exitCode
    return { ended, latest, exitCode: waitCode ?? codes.find((c) => c !== 0) ?? exitCodes.ok }
  } finally {
    view.stop()
    interrupt.stop()
  }
}

function agentsText(place: Place, state: 'gone' | 'back', graceMs: number): string {
  if (state === 'back') return `An agent of "${place.instance}" is alive again.`
  const until = Number.isFinite(graceMs)
    ? `Waiting ${duration(graceMs)} for one to come back`
    : 'Waiting for one to come back'
  return `No agent of "${place.instance}" is alive. ${until}; start one with: ${startCommand(place.layout)}`
}

/** Ctrl-C ends the wait, not the job; a second one ends the program at once. */
export function interruptSignal(): { signal: AbortSignal; stop(): void } {
  const controller = new AbortController()
  const onSignal = (): void => {
    if (controller.signal.aborted) process.exit(exitCodes.interrupted)
    controller.abort(new Error('interrupted'))
  }
  process.on('SIGINT', onSignal)
  process.on('SIGTERM', onSignal)
  return {
    signal: controller.signal,
    stop() {
      process.off('SIGINT', onSignal)
      process.off('SIGTERM', onSignal)
    },
  }
}
