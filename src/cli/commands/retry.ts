import { Command } from 'commander'
import type { Submission } from '../../client/submit.ts'
import { exitCodes, explain } from '../errors.ts'
import { type Format, formatOption, say } from '../output.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'
import { finishSubmissions } from '../submitting.ts'
import { type WaitFlags, waitFlags } from '../waiting.ts'

interface Options extends SpoolOptions, WaitFlags {
  wait?: boolean
  output: Format
}

export default function define(): Command {
  return waitFlags(spoolOptions(new Command('retry')))
    .description(
      "Submit ended jobs' manifests again, as new jobs. The old jobs stay what they are; each new one names its predecessor in retry_of.",
    )
    .argument('<job...>', 'job ids, beginnings of them, or answer names')
    .option('-w, --wait', 'wait until the new jobs have ended; the exit code is then their outcome')
    .addOption(formatOption())
    .addHelpText(
      'after',
      `
Examples:
  vmspool retry web-01 --wait
  vmspool list --state failed -o name | xargs vmspool retry`,
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
      const { submission } = await retryJob(place, job)
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
