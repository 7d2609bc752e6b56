import { once } from 'node:events'
import { Command, Option } from 'commander'
import { CliError, exitCodes } from '../errors.ts'
import { say, wantsColour } from '../output.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'
import { parseCount } from '../units.ts'
import { interruptSignal, outcomeCode } from '../waiting.ts'

interface Options extends SpoolOptions {
  follow?: boolean
  lines?: number
  stream?: 'stdout' | 'stderr' | 'agent'
  timestamps?: boolean
  raw?: boolean
  output: 'text' | 'json'
}

export default function define(): Command {
  return spoolOptions(new Command('logs'))
    .description(
      "Print a job's log: what its programs wrote to stdout and stderr, byte for byte, and what vmspool said in between. " +
        "With --follow it goes on until the job has ended, and the exit code is the job's outcome.",
    )
    .argument('<job>', 'job id, beginning of one, or answer name')
    .option('-f, --follow', 'go on printing what is written until the job has ended')
    .option('-n, --lines <count>', 'begin with the last so many lines', parseCount)
    .addOption(
      new Option('--stream <stream>', 'only what came from it; agent: what vmspool itself said').choices([
        'stdout',
        'stderr',
        'agent',
      ]),
    )
    .option('-t, --timestamps', 'begin each line with the time at which it was written')
    .addOption(
      new Option('-o, --output <format>', 'text, or one JSON object a line: time, stream, text (bytes: base64)')
        .choices(['text', 'json'])
        .default('text'),
    )
    .addOption(
      new Option('--raw', 'the files of the log as they are, with their marks').conflicts(['stream', 'timestamps']),
    )
    .addHelpText(
      'after',
      `
Examples:
  vmspool logs web-01
  vmspool logs -n 20 -f web-01           exit code 0 when it succeeded, 1 failed or cancelled, 65 rejected
  vmspool logs --stream stdout dump > dump.sql    exactly what the program wrote
  vmspool logs -t --stream stderr 01KB   of the job whose id begins so
  vmspool logs -o json web-01 | jq -r 'select(.stream == "stderr").text'`,
    )
    .action(run)
}

async function run(job: string, o: Options): Promise<void> {
  if (o.raw && o.output === 'json')
    throw new CliError(
      exitCodes.usage,
      '--raw prints the files as they are, and -o json something else: give one of them.',
    )
  const { findAnywhere, viewPlaces } = await import('../../client/places.ts')
  const { statusOf } = await import('../../client/status.ts')
  const { readLog } = await import('../../client/logs.ts')
  const { place, status: found } = await findAnywhere(await viewPlaces(o), job)
  const { id } = found
  const interrupt = interruptSignal()
  let empty = true
  try {
    const log = readLog(place, id, {
      follow: o.follow === true,
      raw: o.raw === true,
      timestamps: o.timestamps === true,
      json: o.output === 'json',
      colour: wantsColour(process.stdout),
      signal: interrupt.signal,
      onNotice: say,
      ...(o.lines === undefined ? {} : { lines: o.lines }),
      ...(o.stream === undefined ? {} : { stream: o.stream }),
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
  if (empty) say(nothing(id, o, status?.state))
  if (o.follow && status === undefined) {
    throw new CliError(
      exitCodes.jobFailed,
      `Job ${id} was removed while its log was followed; how it ended is not known.`,
    )
  }
  if (o.follow && status !== undefined) {
    say(`Job ${id} ${status.state}${status.reason ? `: ${status.reason}` : '.'}`)
    process.exitCode = outcomeCode(status)
  }
}

function nothing(id: string, o: Options, state: string | undefined): string {
  const what = o.stream === undefined ? 'no log' : `nothing in its log from ${o.stream}`
  const old =
    o.stream === undefined
      ? ''
      : ' Logs of earlier versions do not tell the streams apart: print them without --stream.'
  return `Job ${id} has written ${what}${state === undefined ? '' : ` (state: ${state})`}.${old}`
}
