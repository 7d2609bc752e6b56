import { Command, Option } from 'commander'
import { jobStates, type JobStateName } from '../../client/status.ts'
import type { JobStatus } from '../../spool/index.ts'
import { type Column, type Format, formatOption, plain, printRows, say } from '../output.ts'
import { describe, percentOf, statePaint } from '../progress.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'
import { age, parseCount } from '../units.ts'

interface Options extends SpoolOptions {
  state?: JobStateName[]
  kind?: string
  name?: string
  batch?: string
  limit: number
  output: Format
}

export default function define(): Command {
  return spoolOptions(new Command('list'))
    .description('List jobs, the newest first. `-o json` prints an array of status objects (docs/output.md).')
    .addOption(new Option('-s, --state <state...>', 'only jobs in these states').choices([...jobStates]))
    .option('--kind <kind>', 'only jobs of this kind')
    .option('--name <name>', 'only jobs with this answer name')
    .option('--batch <job>', 'only the VMs of this batch')
    .option('-n, --limit <count>', 'at most this many; 0 for all', parseCount, 50)
    .addOption(formatOption())
    .addHelpText(
      'after',
      `
Examples:
  vmspool list
  vmspool list --state running retrying
  vmspool list --batch night --state failed
  vmspool list --state failed -o name | xargs vmspool retry
  vmspool list -n 0 -o json | jq '.[] | select(.priority == 0)'`,
    )
    .action(run)
}

export const columns: readonly Column<JobStatus>[] = [
  { title: 'ID', value: (s) => s.id },
  { title: 'NAME', value: (s) => s.name },
  { title: 'KIND', value: (s) => s.kind },
  { title: 'STATE', value: (s) => s.state, paint: (s) => statePaint(s.state) },
  { title: 'DONE', value: (s) => progressCell(s), right: true },
  { title: 'AGE', value: (s) => age(s.accepted_at), right: true },
  { title: 'DETAIL', value: (s) => detail(s) },
]

function progressCell(s: JobStatus): string {
  if (s.state === 'succeeded') return '100 %'
  const percent = s.state === 'running' ? percentOf(s) : undefined
  return percent === undefined ? '-' : `${Math.floor(percent)} %`
}

/** What is worth a look, in one line: where a running job is, why another one waits or failed. */
function detail(s: JobStatus): string {
  const text = s.state === 'running' ? describe(s) : describe(s).replace(new RegExp(`^${s.state}(, )?`), '')
  const first = plain(text.split('\n')[0] ?? '')
  return first.length > 100 ? `${first.slice(0, 99)}…` : first
}

async function run(o: Options): Promise<void> {
  const { locateView, requireSpool } = await import('../../client/place.ts')
  const { findJob, listJobs } = await import('../../client/status.ts')
  const place = await locateView(o)
  await requireSpool(place, 'read')
  const parent = o.batch === undefined ? undefined : (await findJob(place, o.batch)).id
  const limit = o.limit === 0 ? Number.POSITIVE_INFINITY : o.limit
  const jobs = await listJobs(place, {
    ...(o.state === undefined ? {} : { states: o.state }),
    ...(o.kind === undefined ? {} : { kind: o.kind }),
    ...(o.name === undefined ? {} : { name: o.name }),
    ...(parent === undefined ? {} : { parent }),
    limit: limit + 1,
  })
  const shown = jobs.slice(0, limit)
  await printRows(o.output, shown, {
    columns,
    name: (s) => s.id,
    empty: `No jobs${o.state === undefined ? '' : ' in that state'} in the spool "${place.instance}" (${place.layout.output}).`,
  })
  if (jobs.length > shown.length && o.output === 'table')
    say(`More jobs than the ${limit} shown: see --limit and --state.`)
}
