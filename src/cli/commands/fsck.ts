import { Command } from 'commander'
import type { FsckReport } from '../../spool/index.ts'
import { exitCodes } from '../errors.ts'
import { type Format, formatOption, out, painted, plain, printValue, wantsColour } from '../output.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'

interface Options extends SpoolOptions {
  output: Format
}

export default function define(): Command {
  return spoolOptions(new Command('fsck'))
    .description(
      'Audit a spool and its results: each accepted job in exactly one state, each ended job with exactly one answer of the committed attempt, nothing orphaned. Changes nothing; may run while agents do.',
    )
    .addOption(formatOption(['table', 'json', 'yaml', 'name']))
    .addHelpText(
      'after',
      `
Examples:
  vmspool fsck
  vmspool fsck --root /srv/spools --instance vsphere -o json

Exit code 1 when a rule is broken; warnings (things that an agent will tidy) leave it at 0.
\`-o name\` prints the ids of the jobs that have problems.`,
    )
    .action(run)
}

async function run(o: Options): Promise<void> {
  const { locate } = await import('../../client/place.ts')
  const { fsck, openSpool } = await import('../../spool/index.ts')
  const place = await locate(o)
  const report = await fsck(await openSpool({ layout: place.layout }))
  if (report.problems.some((p) => p.severity === 'error')) process.exitCode = exitCodes.jobFailed
  if (o.output === 'json' || o.output === 'yaml') return printValue(o.output, report)
  if (o.output === 'name') {
    for (const id of new Set(report.problems.map((p) => p.job))) if (id !== undefined) out(id)
    return
  }
  print(report, place.layout.output)
}

function print(report: FsckReport, output: string): void {
  const colour = wantsColour(process.stdout)
  for (const p of report.problems) {
    const severity = colour ? painted(p.severity === 'error' ? 'red' : 'yellow', p.severity) : p.severity
    out(`${severity}: ${p.code}: ${plain(p.message)}`)
  }
  const states = Object.entries(report.by_state)
    .map(([state, n]) => `${n} ${state}`)
    .join(', ')
  const errors = report.problems.filter((p) => p.severity === 'error').length
  out(
    `${report.jobs} jobs${states ? ` (${states})` : ''}, ${report.tickets} tickets, ${report.answers} answers in ${output}`,
  )
  out(`${errors} errors, ${report.problems.length - errors} warnings`)
}
