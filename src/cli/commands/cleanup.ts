import { Command, Option } from 'commander'
import type { JobStatus } from '../../spool/index.ts'
import { CliError, exitCodes } from '../errors.ts'
import { type Format, formatOption, out, printRows, printValue, say } from '../output.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'
import { parseCount } from '../units.ts'
import { columns } from './list.ts'

interface Options extends SpoolOptions {
  days: number
  status: string[]
  dryRun?: boolean
  all?: boolean
  output: Format
}

const words = ['exited', 'killed', 'unknown', 'all', 'succeeded', 'failed', 'cancelled', 'rejected', 'running'] as const

export default function define(): Command {
  return spoolOptions(new Command('cleanup'))
    .description(
      'Remove jobs that are over: record, log and result by id. Disks and other public answers stay. An agent does the same by itself (retention).',
    )
    .option('-d, --days <days>', 'only those that ended so many days ago or earlier', parseCount, 30)
    .addOption(
      new Option('-s, --status <status...>', 'only those that ended so')
        .choices([...words])
        .default(['exited', 'killed'], 'exited, killed: all but those of which nobody saw the end'),
    )
    .option('-n, --dry-run', 'only say what would be removed')
    .option('-a, --all', 'however long ago they ended')
    .addOption(formatOption())
    .addHelpText(
      'after',
      `
Examples:
  vmspool cleanup --dry-run
  vmspool cleanup -d 7 -s succeeded
  vmspool cleanup --all -s all

exited: succeeded, or failed by itself. killed: cancelled, stopped, or ended by a signal. unknown: the host went down, or the shim was killed.
Jobs of a batch that is not over stay until it is.`,
    )
    .action(run)
}

async function run(o: Options): Promise<void> {
  if (o.status.includes('running'))
    throw new CliError(
      exitCodes.jobFailed,
      'Cannot cleanup running tasks. Stop them first: vmspool list --status running -o name | xargs vmspool stop',
    )
  const { places } = await import('../../client/places.ts')
  const { cleanup } = await import('../../client/cleanup.ts')
  const { ghostWord } = await import('../../spool/ghost.ts')
  const wanted = new Set(o.status)
  const found: JobStatus[] = []
  let needed = 0
  for (const place of await places(o)) {
    const result = await cleanup(place, {
      ...(o.all ? {} : { olderMs: o.days * 86_400_000 }),
      ...(o.dryRun ? { dryRun: true } : {}),
      which: (s) => wanted.has('all') || wanted.has(s.state) || wanted.has(ghostWord(s) ?? ''),
    })
    found.push(...result.jobs)
    needed += result.needed
  }
  if (needed > 0) say(`${needed} more belong to a batch that is not over, and stay until it is.`)
  if (o.output === 'json' || o.output === 'yaml') return printValue(o.output, found)
  if (o.output === 'name') return printRows('name', found, { columns, name: (s) => s.id, empty: '' })
  if (found.length === 0) return out('No tasks found matching cleanup criteria.')
  if (!o.dryRun) return out(`Successfully deleted ${found.length} task(s).`)
  out(`The following ${found.length} task(s) would be deleted:`)
  await printRows('table', found, { columns, name: (s) => s.id, empty: '' })
}
