import { Command } from 'commander'
import type { Submission } from '../../client/submit.ts'
import type { Place } from '../../client/place.ts'
import type { StartedRun } from '../../client/run.ts'
import { exitCodes, explain } from '../errors.ts'
import { type Format, formatOption, say } from '../output.ts'
import { printStarted, variables } from '../run-now.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'
import { finishSubmissions } from '../submitting.ts'
import { type WaitFlags, waitFlags } from '../waiting.ts'

interface Options extends SpoolOptions, WaitFlags {
  env?: string[]
  output: Format
}

export default function define(): Command {
  return waitFlags(spoolOptions(new Command('rerun')))
    .description(
      'Run ended jobs again, as new jobs: a command that ran without an agent in the same folder with the same variables, any other as `vmspool retry` does.',
    )
    .argument('<job...>', 'job ids, beginnings of them, or names (then the newest of that name)')
    .option(
      '-e, --env <name=value>',
      'a variable for the command, added or instead of what it had; NAME alone takes the value from here',
      (text: string, before: string[] = []) => [...before, text],
    )
    .option('-w, --wait', 'wait until jobs of an agent have ended; the exit code is then their outcome')
    .addOption(formatOption(['table', 'json', 'name']))
    .addHelpText(
      'after',
      `
Examples:
  vmspool rerun night
  vmspool rerun -e STAGE=production -e API_TOKEN deploy

Values that look like secrets are never stored: they are taken from the variables that are set here, or have to be given again.`,
    )
    .action(run)
}

async function run(jobs: string[], o: Options & { wait?: boolean }): Promise<void> {
  const { findAnywhere, places } = await import('../../client/places.ts')
  const { rerunJob } = await import('../../client/rerun.ts')
  const env = o.env === undefined ? {} : { env: variables(o.env) }
  const all = await places(o)
  const started: { place: Place; run: StartedRun }[] = []
  const submitted = new Map<Place, Submission[]>()
  let worst: number = exitCodes.ok
  for (const job of jobs) {
    try {
      const { place, status } = await findAnywhere(all, job)
      const again = await rerunJob(place, status, { ...env, onWarning: (text) => say(`vmspool: ${text}`) })
      if ('started' in again) started.push({ place, run: again.started })
      else submitted.set(place, [...(submitted.get(place) ?? []), again.submission])
    } catch (error) {
      const { message, exitCode } = explain(error)
      say(`vmspool: ${message}`)
      worst ||= exitCode
    }
  }
  const output = o.output as 'table' | 'json' | 'name'
  if (started.length > 0 || submitted.size === 0)
    worst =
      printStarted(
        started.map(({ place, run }) => ({ layout: place.layout, run })),
        output,
      ) || worst
  for (const [place, submissions] of submitted) worst = (await finishSubmissions(place, submissions, o)) || worst
  process.exitCode = worst
}
