/** How many jobs ended how, how long they took and waited, and how many bytes a second they did. */
import type { DatabaseSync } from 'node:sqlite'

export type StatsKey = 'kind' | 'day' | 'outcome' | 'name' | 'host'

export interface StatsRow {
  /** what the row is about: a kind, a day (UTC) …; nothing in the row of all */
  kind?: string
  day?: string
  outcome?: string
  name?: string
  host?: string
  jobs: number
  succeeded: number
  failed: number
  cancelled: number
  rejected: number
  duration_median_ms?: number
  duration_p95_ms?: number
  /** from acceptance to the start of the last attempt */
  wait_median_ms?: number
  wait_p95_ms?: number
  bytes_in?: number
  bytes_out?: number
  /** bytes read, or where that is not known written, by the time that those jobs took */
  rate_bytes_per_s?: number
}

const columnOf: Record<StatsKey, string> = {
  kind: 'kind',
  day: "date(finished_ms / 1000, 'unixepoch')",
  outcome: 'state',
  name: 'name',
  host: 'host',
}

export interface StatsFilter {
  /** only of this spool, as the index numbers it */
  spool?: number
  /** only jobs that ended at this moment or later, ms since 1970 */
  since_ms?: number
}

/** Rows by these keys in their order, and last the sum of all. */
export function stats(db: DatabaseSync, by: readonly StatsKey[], f: StatsFilter): { rows: StatsRow[]; all: StatsRow } {
  const where: string[] = []
  const values: number[] = []
  if (f.since_ms !== undefined) {
    where.push('finished_ms >= ?')
    values.push(f.since_ms)
  }
  if (f.spool !== undefined) {
    where.push('spool = ?')
    values.push(f.spool)
  }
  const condition = where.length === 0 ? '' : `WHERE ${where.join(' AND ')}`
  const keys = by.map((k) => `coalesce(${columnOf[k]}, '-') AS ${k}`)
  const groups = by.map((_, i) => i + 1).join(', ')
  const select = (columns: string[], rest: string) =>
    db.prepare(`SELECT ${[...columns, ...measures].join(', ')} FROM job ${condition} ${rest}`).all(...values)
  const rows = by.length === 0 ? [] : select(keys, `GROUP BY ${groups} ORDER BY ${groups}`)
  return { rows: rows.map(rowOf), all: rowOf(select([], '')[0]!) }
}

const wait = 'max(0, started_ms - accepted_ms)'
const work = 'coalesce(bytes_in, bytes_out)'
const measures = [
  'count(*) AS jobs',
  ...['succeeded', 'failed', 'cancelled', 'rejected'].map((s) => `count(*) FILTER (WHERE state = '${s}') AS ${s}`),
  'median(duration_ms) AS duration_median_ms',
  'percentile(duration_ms, 95) AS duration_p95_ms',
  `median(${wait}) AS wait_median_ms`,
  `percentile(${wait}, 95) AS wait_p95_ms`,
  'sum(bytes_in) AS bytes_in',
  'sum(bytes_out) AS bytes_out',
  `1000.0 * sum(${work}) FILTER (WHERE duration_ms > 0) / sum(duration_ms) FILTER (WHERE ${work} > 0) AS rate_bytes_per_s`,
]

function rowOf(row: Record<string, unknown>): StatsRow {
  const out: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(row)) {
    if (value === null) continue
    out[key] = typeof value === 'number' ? Math.round(value) : value
  }
  return out as unknown as StatsRow
}
