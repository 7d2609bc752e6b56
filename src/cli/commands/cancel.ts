import { Command } from 'commander'
import type { JobStatus } from '../../spool/index.ts'
import { exitCodes, explain } from '../errors.ts'
import { type Format, formatOption, printRows, say } from '../output.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'
import { type WaitFlags, waitFlags, waitForAll } from '../waiting.ts'
import { columns } from './list.ts'

interface Options extends SpoolOptions, WaitFlags {
  wait?: boolean
  output: Format
}

export default function define(): Command {
  return waitFlags(spoolOptions(new Command('cancel')))
    .description(
      'Cancel jobs. The request is kept until an agent has carried it out; a job that ends first has ended as what it became.',
    )
    .argument('<job...>', 'job ids, beginnings of them, or answer names')
    .option('-w, --wait', 'wait until the jobs have ended')
    .addOption(formatOption())
    .addHelpText(
      'after',
      `
Examples:
  vmspool cancel web-01
  vmspool list --state queued -o name | xargs vmspool cancel`,
    )
    .action(run)
}

async function run(jobs: string[], o: Options): Promise<void> {
  const { locate, requireSpool } = await import('../../client/place.ts')
  const { cancelJob } = await import('../../client/cancel.ts')
  const place = await locate(o)
  await requireSpool(place, 'read')
  let asked: JobStatus[] = []
  let worst: number = exitCodes.ok
  for (const job of jobs) {
    try {
      asked.push(await cancelJob(place, job))
    } catch (error) {
      const { message, exitCode } = explain(error)
      say(`vmspool: ${message}`)
      worst ||= exitCode
    }
  }
  if (o.wait && asked.length > 0) {
    const { ended, exitCode } = await waitForAll(
      place,
      asked.map((s) => s.id),
      o,
    )
    asked = asked.map((s, i) => ended[i] ?? s)
    // A job that ended as cancelled is what was asked for.
    if (ended.some((s) => s === undefined)) worst ||= exitCode
  } else if (asked.length > 0) {
    say(asked.length === 1 ? 'The cancellation was requested.' : `${asked.length} cancellations were requested.`)
  }
  if (asked.length > 0) await printRows(o.output, asked, { columns, name: (s) => s.id, empty: '' })
  process.exitCode = worst
}
