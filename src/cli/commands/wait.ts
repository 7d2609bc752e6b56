import { Command } from 'commander'
import type { Place } from '../../client/place.ts'
import type { JobStatus } from '../../spool/index.ts'
import { type Format, formatOption, printRows, say } from '../output.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'
import { parseDuration } from '../units.ts'
import { parseGrace, waitForEach } from '../waiting.ts'
import { columns } from './list.ts'

interface Options extends SpoolOptions {
  any?: boolean
  timeout?: number
  agentGrace: number
  quiet?: boolean
  output: Format
}

export default function define(): Command {
  return spoolOptions(new Command('wait'))
    .description('Wait until jobs have ended, and end with their outcome.')
    .argument('<job...>', 'job ids, beginnings of them, or names (then the newest of that name)')
    .option('--any', 'until the first of them has ended')
    .option('--timeout <duration>', 'give up after this long, exit code 124 (the jobs go on)', parseDuration)
    .option(
      '--agent-grace <duration>',
      'give up on an agent\'s job when no agent has been alive for this long, exit code 69; "never" waits on',
      parseGrace,
      120_000,
    )
    .option('-q, --quiet', 'no progress')
    .addOption(formatOption())
    .addHelpText(
      'after',
      `
Examples:
  vmspool wait night
  vmspool wait --any --timeout 1h 01JD2Z 01JD30 -o name
  vmspool run --name a ./build && vmspool wait a && echo built

Exit code 0 when all (with --any: the first) succeeded, 1 when one failed or was cancelled, 65 rejected, 124 timed out, 69 no agent.`,
    )
    .action(run)
}

async function run(jobs: string[], o: Options): Promise<void> {
  const { findAnywhere, places } = await import('../../client/places.ts')
  const all = await places(o)
  const found: { place: Place; status: JobStatus }[] = []
  for (const job of jobs) found.push(await findAnywhere(all, job))
  const wanted = found.map(({ place, status }) => ({ place, job: status.id }))
  const { ended, latest, exitCode } = await waitForEach(wanted, o)
  process.exitCode = exitCode
  const rows: JobStatus[] = o.any
    ? ended.filter((s) => s !== undefined).slice(0, 1)
    : wanted.map((_, i) => ended[i] ?? latest[i] ?? found[i]!.status)
  for (const s of rows)
    if ((s.state === 'failed' || s.state === 'rejected') && o.output !== 'table')
      say(`${s.name}: ${s.reason ?? s.state}`)
  if (rows.length > 0) await printRows(o.output, rows, { columns, name: (s) => s.id, empty: '' })
}
