import { once } from 'node:events'
import { Command } from 'commander'
import { CliError, exitCodes } from '../errors.ts'
import { say } from '../output.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'
import { parseCount } from '../units.ts'
import { interruptSignal, outcomeCode } from '../waiting.ts'

interface Options extends SpoolOptions {
  follow?: boolean
  lines?: number
}

export default function define(): Command {
  return spoolOptions(new Command('logs'))
    .description(
      "Print a job's log. With --follow it goes on until the job has ended, and the exit code is the job's outcome.",
    )
    .argument('<job>', 'job id, beginning of one, or answer name')
    .option('-f, --follow', 'go on printing what is written until the job has ended')
    .option('-n, --lines <count>', 'begin with the last so many lines', parseCount)
    .addHelpText(
      'after',
      `
Examples:
  vmspool logs web-01
  vmspool logs -n 20 -f web-01      exit code 0 when it succeeded, 1 failed or cancelled, 65 rejected`,
    )
    .action(run)
}

async function run(job: string, o: Options): Promise<void> {
  const { locate, requireSpool } = await import('../../client/place.ts')
  const { findJob, statusOf } = await import('../../client/status.ts')
  const { readLog } = await import('../../client/logs.ts')
  const place = await locate(o)
  await requireSpool(place, 'read')
  const { id } = await findJob(place, job)
  const interrupt = interruptSignal()
  let empty = true
  try {
    const log = readLog(place, id, {
      follow: o.follow === true,
      signal: interrupt.signal,
      ...(o.lines === undefined ? {} : { lines: o.lines }),
    })
    for await (const part of log) {
      empty = false
      if (!process.stdout.write(part)) await once(process.stdout, 'drain')
    }
  } catch (error) {
    if (!interrupt.signal.aborted) throw error
    throw new CliError(exitCodes.interrupted, `Stopped following; job ${id} goes on.`)
  } finally {
    interrupt.stop()
  }
  const status = await statusOf(place, id)
  if (empty) say(`Job ${id} has written no log${status === undefined ? '' : ` (state: ${status.state})`}.`)
  if (o.follow && status !== undefined) {
    say(`Job ${id} ${status.state}${status.reason ? `: ${status.reason}` : '.'}`)
    process.exitCode = outcomeCode(status)
  }
}
