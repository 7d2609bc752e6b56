import { Command, InvalidArgumentError, Option } from 'commander'
import type { StatsKey, StatsRow } from '../../history/stats.ts'
import { type Column, type Format, formatOption, out, printValue, say, table } from '../output.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'
import { bytes, duration, parseDuration } from '../units.ts'

interface Options extends SpoolOptions {
  since?: number
  by: StatsKey[]
  all?: boolean
  output: Format
}

const keys: StatsKey[] = ['kind', 'day', 'outcome', 'name', 'host']

export default function define(): Command {
  return spoolOptions(new Command('stats'))
    .description(
      'Count finished jobs: how they ended, how long they took and waited (median and 95th percentile), bytes and bytes a second. From the history (docs/history.md).',
    )
    .option('--since <when>', 'only jobs that ended since then: "7d", "12h", "2026-05-01" or a time in RFC 3339', since)
    .addOption(new Option('--by <key...>', 'one row for each').choices(keys).default(['kind']))
    .option('-a, --all', 'of every spool in the history')
    .addOption(formatOption(['table', 'json', 'yaml']))
    .addHelpText(
      'after',
      `
Examples:
  vmspool stats
  vmspool stats --since 7d --by day
  vmspool stats --by kind outcome --since 2026-05-01
  vmspool stats --by name -o json | jq '.rows | sort_by(-.duration_p95_ms)[:10]'`,
    )
    .action(run)
}

/** A duration before now, or a moment, as ms since 1970. */
function since(text: string): number {
  if (/^\d{4}-\d\d-\d\d/.test(text)) {
    const at = Date.parse(text)
    if (Number.isNaN(at)) throw new InvalidArgumentError(`"${text}" is no day and no time.`)
    return at
  }
  return Date.now() - parseDuration(text)
}

async function run(o: Options): Promise<void> {
  const { locateView, requireSpool } = await import('../../client/place.ts')
  const { withIndex } = await import('../../client/history-work.ts')
  const { stats } = await import('../../history/stats.ts')
  const place = await locateView(o)
  await requireSpool(place, 'read')
  const by = [...new Set(o.by)]
  const found = await withIndex(place, { onNote: say }, (h, spool) =>
    stats(h.db, by, { ...(o.all ? {} : { spool }), ...(o.since === undefined ? {} : { since_ms: o.since }) }),
  )
  if (o.output !== 'table') {
    const from = o.since === undefined ? {} : { since: new Date(o.since).toISOString() }
    return printValue(o.output as 'json' | 'yaml', { ...from, by, ...found })
  }
  if (found.all.jobs === 0) return say(`No finished jobs${o.since === undefined ? '' : ' since then'} in the history.`)
  out(table([...found.rows, found.all], columns(by), false))
}

function columns(by: readonly StatsKey[]): Column<StatsRow>[] {
  const n = (value: number | undefined, show: (v: number) => string) => (value === undefined ? '-' : show(value))
  const number = (title: string, value: (r: StatsRow) => string): Column<StatsRow> => ({ title, value, right: true })
  return [
    ...by.map(
      (key, i): Column<StatsRow> => ({
        title: key.toUpperCase(),
        value: (r) => r[key] ?? (by.some((k) => r[k] !== undefined) ? '-' : i === 0 ? 'all' : ''),
      }),
    ),
    number('JOBS', (r) => String(r.jobs)),
    number('DONE', (r) => String(r.succeeded)),
    number('FAILED', (r) => String(r.failed)),
    number('CANCELLED', (r) => String(r.cancelled)),
    number('REJECTED', (r) => String(r.rejected)),
    number('TOOK', (r) => n(r.duration_median_ms, duration)),
    number('P95', (r) => n(r.duration_p95_ms, duration)),
    number('WAITED', (r) => n(r.wait_median_ms, duration)),
    number('P95', (r) => n(r.wait_p95_ms, duration)),
    number('IN', (r) => n(r.bytes_in, bytes)),
    number('OUT', (r) => n(r.bytes_out, bytes)),
    number('RATE', (r) => n(r.rate_bytes_per_s, (v) => `${bytes(v)}/s`)),
  ]
}
