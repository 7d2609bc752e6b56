import { Command } from 'commander'
import type { Place } from '../../client/place.ts'
import type { JobStatus } from '../../spool/index.ts'
import {
  type Column,
  type Format,
  formatOption,
  out,
  painted,
  plain,
  printValue,
  table,
  wantsColour,
} from '../output.ts'
import { percentOf, saidOf, statePaint, waitingText } from '../progress.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'
import { join } from 'node:path'
import { countsText } from '../../text/counts.ts'
import { joinWords } from '../../text/words.ts'
import { bytes, duration } from '../units.ts'
import { type WaitFlags, waitFlags, waitForAll } from '../waiting.ts'
import { columns } from './list.ts'

interface Options extends SpoolOptions, WaitFlags {
  wait?: boolean
  output: Format
}

export default function define(): Command {
  return waitFlags(spoolOptions(new Command('status')))
    .description(
      'Show one job, by its id, the beginning of its id, or its answer name (then the last accepted job of that name).',
    )
    .argument('<job>', 'job id, beginning of one (6 characters or more), or answer name')
    .option('-w, --wait', 'wait until the job has ended; the exit code is then its outcome')
    .addOption(formatOption(['table', 'json', 'yaml', 'name']))
    .addHelpText(
      'after',
      `
Examples:
  vmspool status web-01
  vmspool status 01JD2Z -o json
  vmspool status web-01 --wait --timeout 2h   exit code 0 succeeded, 1 failed or cancelled,
                                              65 rejected, 124 timed out, 69 no agent`,
    )
    .action(run)
}

async function run(job: string, o: Options): Promise<void> {
  const { findAnywhere, places } = await import('../../client/places.ts')
  const found = await findAnywhere(await places(o), job)
  const { place } = found
  let { status } = found
  if (o.wait) {
    const { ended, exitCode } = await waitForAll(place, [status.id], o)
    status = ended[0] ?? status
    process.exitCode = exitCode
  }
  await printStatus(place, status, o.output)
}

export async function printStatus(place: Place, status: JobStatus, format: Format): Promise<void> {
  if (format === 'json' || format === 'yaml') return printValue(format, status)
  if (format === 'name') return out(status.id)
  out(await statusText(place, status, wantsColour(process.stdout)))
}

/** One "Label: value" line for each thing there is to know; what does not apply is left out. */
export async function statusText(place: Place, s: JobStatus, colour: boolean): Promise<string> {
  const { errorTextOf } = await import('../../client/status.ts')
  const paint = statePaint(s.state)
  const state = colour && paint !== undefined ? painted(paint, s.state) : s.state
  const rows: [string, string | undefined][] = [
    ['Job', s.id],
    ['Name', plain(s.name)],
    ['Kind', plain(s.kind)],
    ['State', `${state}${s.since ? ` since ${s.since}` : ''}`],
    ['PID', s.pid === undefined ? undefined : `${s.pid}${s.host ? ` on ${plain(s.host)}` : ''}`],
    ['Command', s.command && plain(joinWords(s.command))],
    ['Directory', s.cwd && plain(s.cwd)],
    ['Environment', s.kind === 'command' ? await environmentText(place, s) : undefined],
    ['Phase', s.state === 'running' && s.pid === undefined ? s.phase : undefined],
    ['Progress', s.state === 'running' ? progressText(s) : undefined],
    ['Doing', saidOf(s) && plain(saidOf(s)!)],
    ['Waiting for', s.waiting_on ? plain(waitingText(s.waiting_on)) : undefined],
    ['Reason', s.reason ? plain(s.reason) : undefined],
    ['Attempt', s.attempt === undefined || s.direct ? undefined : `${s.attempt} (epoch ${s.epoch})`],
    ['Worked on by', s.owner],
    ['Priority', s.priority === undefined || s.direct ? undefined : String(s.priority)],
    ['Accepted', s.accepted_at],
    ['Started', s.started_at],
    ['Finished', s.finished_at],
    [
      s.finished_at ? 'Took' : 'Runs for',
      s.started_at && (s.finished_at || s.state === 'running')
        ? duration((s.finished_at ? Date.parse(s.finished_at) : Date.now()) - Date.parse(s.started_at))
        : undefined,
    ],
    ['Exit code', s.exit_code === undefined || s.exit_code === null ? undefined : String(s.exit_code)],
    ['Signal', s.signal ?? undefined],
    ['VMs', s.children === undefined ? undefined : countsText(s.children)],
    ['Batch', s.parent === undefined ? undefined : `${s.parent} (VM ${plain(s.vm_id ?? '?')})`],
    ['Dropped as', s.drop_file ? plain(s.drop_file) : undefined],
    ['Log file', s.kind === 'command' ? plain(join(place.layout.outputJobs, s.id, 'log')) : undefined],
    ['Output', s.output?.map(plain).join(', ')],
  ]
  const lines = rows
    .filter(([, value]) => value !== undefined && value !== '')
    .map(([k, v]) => `${`${k}:`.padEnd(14)}${v}`)
  if (s.state === 'failed' || s.state === 'rejected') {
    const text = await errorTextOf(place, s)
    if (text !== undefined && text !== s.reason) lines.push('Error:', ...text.split('\n').map((l) => `  ${plain(l)}`))
  }
  if (s.children !== undefined) lines.push(...(await childLines(place, s, colour)))
  return lines.join('\n')
}

/** What was given to the command beside its surroundings; secrets by name alone. Only for those who may read the record. */
async function environmentText(place: Place, s: JobStatus): Promise<string | undefined> {
  const { environmentOf } = await import('../../client/environment.ts')
  const given = await environmentOf(place, s)
  return given?.map(([name, value]) => plain(`${name}=${value}`)).join(' ')
}

/** A screenful; the rest is what `list --batch` is for. */
const MOST_CHILDREN = 40

/** The VMs of a batch, those first that want a look. */
async function childLines(place: Place, s: JobStatus, colour: boolean): Promise<string[]> {
  const { listJobs } = await import('../../client/status.ts')
  const rank = { failed: 0, rejected: 1, cancelled: 2, running: 3, retrying: 4, held: 5, queued: 6, succeeded: 7 }
  const jobs = (await listJobs(place, { parent: s.id })).reverse().sort((a, b) => rank[a.state] - rank[b.state])
  if (jobs.length === 0) return []
  const shown = jobs.slice(0, MOST_CHILDREN)
  const rest = jobs.length - shown.length
  return [
    '',
    table(shown, childColumns, colour),
    ...(rest > 0 ? [`and ${rest} more: vmspool list --batch ${s.id} -n 0`] : []),
  ]
}

const childColumns: readonly Column<JobStatus>[] = [
  { title: 'VM', value: (c) => c.vm_id ?? '-' },
  ...columns.filter((c) => ['ID', 'NAME', 'STATE', 'DONE', 'DETAIL'].includes(c.title)),
]

function progressText(s: JobStatus): string | undefined {
  const percent = percentOf(s)
  const p = s.progress
  if (percent === undefined) return undefined
  if (!p?.bytes_total) return s.children === undefined ? undefined : `${percent.toFixed(1)} %`
  const parts = [`${percent.toFixed(1)} %`, `${bytes(p.bytes_done ?? 0)} of ${bytes(p.bytes_total)}`]
  if (p.rate_bytes_per_s) parts.push(`${bytes(p.rate_bytes_per_s)}/s`)
  if (p.eta_ms !== undefined && p.eta_ms !== null) parts.push(`${duration(p.eta_ms)} left`)
  return parts.join(', ')
}
