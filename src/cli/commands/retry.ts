import { Command, Option } from 'commander'
import type { RetryStep } from '../../client/retry.ts'
import type { Submission } from '../../client/submit.ts'
import { exitCodes, explain } from '../errors.ts'
import { type Format, formatOption, say } from '../output.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'
import { finishSubmissions } from '../submitting.ts'
import { type WaitFlags, waitFlags } from '../waiting.ts'

interface Options extends SpoolOptions, WaitFlags {
  wait?: boolean
  from?: RetryStep
  output: Format
}

export default function define(): Command {
  return waitFlags(spoolOptions(new Command('retry')))
    .description(
      "Submit ended jobs' manifests again, as new jobs. The old jobs stay what they are; each new one names its predecessor in retry_of.",
    )
    .argument('<job...>', 'job ids, beginnings of them, or answer names')
    .option('-w, --wait', 'wait until the new jobs have ended; the exit code is then their outcome')
    .addOption(
      new Option(
        '--from <step>',
        'begin with this step, whatever was finished of it and those after it; without it, with the step that failed',
      ).choices(['inspect', 'copy', 'fix', 'merge', 'validate']),
    )
    .addOption(formatOption())
    .addHelpText(
      'after',
      `
Examples:
  vmspool retry web-01 --wait
  vmspool retry --from fix web-01
  vmspool list --state failed -o name | xargs vmspool retry

A conversion that failed for good keeps its finished steps, above all its copied disks, as long as failed
jobs are kept (retention.failed). A retry takes them over.`,
    )
    .action(run)
}

async function run(jobs: string[], o: Options): Promise<void> {
  const { locate, requireSpool } = await import('../../client/place.ts')
  const { retryJob } = await import('../../client/retry.ts')
  const place = await locate(o)
  await requireSpool(place, 'submit')
  const submissions: Submission[] = []
  let worst: number = exitCodes.ok
  for (const job of jobs) {
    try {
      const { submission } = await retryJob(place, job, o.from === undefined ? {} : { from: o.from })
      submissions.push(submission)
    } catch (error) {
      const { message, exitCode } = explain(error)
      say(`vmspool: ${message}`)
      worst ||= exitCode
    }
  }
  if (submissions.length > 0) worst = (await finishSubmissions(place, submissions, o)) || worst
  process.exitCode = worst
}
