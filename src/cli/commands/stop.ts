import { Command } from 'commander'
import type { Stopped } from '../../client/stop.ts'
import { exitCodes, explain } from '../errors.ts'
import { type Format, formatOption, out, printValue, say } from '../output.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'
import { parseDuration } from '../units.ts'
import { interruptSignal } from '../waiting.ts'

interface Options extends SpoolOptions {
  force?: boolean
  grace?: number
  output: Format
}

export default function define(): Command {
  return spoolOptions(new Command('stop'))
    .description(
      'Stop jobs: a process gets SIGTERM, after a grace SIGKILL, with all that it started, and is gone when this returns. ' +
        "A job that waits is cancelled. An agent's job is stopped by its agent.",
    )
    .argument('<job...>', 'job ids, beginnings of them, or names (then the newest of that name)')
    .option('-f, --force', 'SIGKILL at once')
    .option('--grace <duration>', 'between SIGTERM and SIGKILL (default: as the job has it, else 10 s)', parseDuration)
    .addOption(formatOption(['table', 'json', 'name']))
    .addHelpText(
      'after',
      `
Examples:
  vmspool stop night
  vmspool stop -f 01JD2Z
  vmspool stop --grace 2m database
  vmspool list --status running -o name | xargs vmspool stop

Exit code 0 when all have been stopped, 1 when one was not running or did not end, 69 when only an agent can do it and none is alive.`,
    )
    .action(run)
}

async function run(jobs: string[], o: Options): Promise<void> {
  const { findAnywhere, places } = await import('../../client/places.ts')
  const { stopJob } = await import('../../client/stop.ts')
  const all = await places(o)
  const interrupt = interruptSignal()
  let worst: number = exitCodes.ok
  // Side by side: each may take its grace.
  const results = await Promise.all(
    jobs.map(async (job): Promise<Stopped | undefined> => {
      try {
        const { place, status } = await findAnywhere(all, job)
        return await stopJob(place, status, {
          signal: interrupt.signal,
          ...(o.force ? { force: true } : {}),
          ...(o.grace === undefined ? {} : { graceMs: o.grace }),
          onWait: (s) => say(`Waiting for job ${s.id} (${s.name}) to end …`),
        })
      } catch (error) {
        const { message, exitCode } = explain(error)
        say(`vmspool: ${message}`)
        worst ||= exitCode
        return undefined
      }
    }),
  ).finally(() => interrupt.stop())
  const stopped = results.filter((r) => r !== undefined)
  for (const { status, killed, pending } of stopped) {
    if (pending !== undefined) {
      say(`vmspool: ${pending}`)
      worst ||= exitCodes.noAgent
    }
    if (o.output === 'name') out(status.id)
    else if (o.output === 'table' && pending === undefined) out(sentence(status, killed))
  }
  if (o.output === 'json')
    await printValue(
      'json',
      stopped.map((s) => s.status),
    )
  process.exitCode = worst
}

/** Ghost's words for a process; a job that had none was cancelled, one that ended by itself meanwhile is what it became. */
function sentence(status: Stopped['status'], killed: boolean): string {
  if (status.state !== 'cancelled') return `Job ${status.id} (${status.name}) had ended by itself: ${status.state}.`
  if (status.pid === undefined) return `Job ${status.id} (${status.name}) has been cancelled`
  return `Process ${status.id} (${status.pid}) has been ${killed ? 'killed' : 'exited'}`
}
