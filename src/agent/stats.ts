/**
 * `<output>/.daemon/stats.json` and the `stats` command, in the schema of the hyper2kvm daemon (contract A6). The totals are counted
 * from `events.jsonl`, up to a position that is kept in the same file: so they include what other agents of the spool
 * did, survive restarts, and count nothing twice.
 */
import { readFile, rename, writeFile } from 'node:fs/promises'
import { extname, join } from 'node:path'
import { endOfEvents, type EventsPosition, readEvents } from '../spool/index.ts'

export interface CurrentJob {
  filename: string
  file_type: string
  file_size_mb: number
  start_time: string
  end_time: string | null
  duration_seconds: number
  status: 'processing' | 'success' | 'failed' | 'retrying'
  error: string | null
  retry_count: number
  job_id?: string
  name?: string
}

interface TypeTotals {
  processed: number
  failed: number
  total_time: number
}

interface Totals {
  processed: number
  failed: number
  retried: number
  total_processing_time: number
  by_file_type: Record<string, TypeTotals>
  recent: CurrentJob[]
  /** how far events.jsonl is counted; an older version kept nothing but these two numbers */
  events: EventsPosition | { ino: number; offset: number } | undefined
}

export interface StatsSnapshot {
  daemon_start_time: string
  uptime_seconds: number
  uptime_hours: number
  total_processed: number
  total_failed: number
  total_retried: number
  success_rate_percent: number
  average_processing_time_seconds: number
  current_queue_depth: number
  current_jobs: CurrentJob[]
  by_file_type: Record<
    string,
    { processed: number; failed: number; success_rate_percent: number; average_time_seconds: number }
  >
  recent_completed: CurrentJob[]
  last_updated: string
  [more: string]: unknown
}

export interface Stats {
  /** reads what happened since the last look, and returns the whole */
  snapshot(): Promise<StatsSnapshot>
  /** writes stats.json; calls while one runs share it */
  save(): Promise<void>
}

export interface StatsSource {
  /** `<output>/.daemon` */
  dir: string
  startedAt: Date
  current(): CurrentJob[]
  queueDepth(): number
  /** more fields, after those of A6 */
  extra?(): Record<string, unknown>
}

/** What A6 calls a file type: the suffix of what was dropped; manifests count under their kind. */
export function fileType(file: string, kind: string): string {
  const ext = extname(file).toLowerCase()
  return ext === '' || ext === '.json' || ext === '.yaml' || ext === '.yml' ? kind : ext
}

const RECENT = 10
const ROUND = (n: number, digits = 2): number => Number(n.toFixed(digits))
const rate = (ok: number, bad: number): number => (ok + bad === 0 ? 0 : ROUND((100 * ok) / (ok + bad)))

const number = (x: unknown): number => (typeof x === 'number' && Number.isFinite(x) && x >= 0 ? x : 0)

/** Reads a stats.json of any age, also one that the old daemon wrote; what is missing is zero. */
function restore(text: string): Totals {
  const t: Totals = {
    processed: 0,
    failed: 0,
    retried: 0,
    total_processing_time: 0,
    by_file_type: {},
    recent: [],
    events: undefined,
  }
  let raw: Record<string, unknown>
  try {
    raw = JSON.parse(text)
    if (typeof raw !== 'object' || raw === null) return t
  } catch {
    return t
  }
  t.processed = number(raw.total_processed)
  t.failed = number(raw.total_failed)
  t.retried = number(raw.total_retried)
  t.total_processing_time =
    number(raw.total_processing_time) || number(raw.average_processing_time_seconds) * t.processed
  for (const [type, v] of Object.entries((raw.by_file_type as Record<string, Record<string, unknown>>) ?? {})) {
    const processed = number(v?.processed)
    t.by_file_type[type] = {
      processed,
      failed: number(v?.failed),
      total_time: number(v?.total_time) || number(v?.average_time_seconds) * processed,
    }
  }
  if (Array.isArray(raw.recent_completed)) t.recent = raw.recent_completed.slice(0, RECENT) as CurrentJob[]
  const e = raw.events_read as Record<string, unknown> | undefined
  const read = { ino: number(e?.ino), offset: number(e?.offset) }
  t.events = typeof e?.segment === 'number' ? ({ ...e, ...read } as EventsPosition) : e === undefined ? undefined : read
  return t
}

interface FinishedEvent {
  event?: string
  at?: string
  job?: string
  name?: string
  state?: string
  kind?: string
  drop_file?: string
  bytes?: number
  started_at?: string
  duration_ms?: number
  error?: string
  attempt?: number
}

function count(t: Totals, e: FinishedEvent): void {
  if (e.event === 'retrying') t.retried += 1
  if (e.event !== 'finished') return
  const ok = e.state === 'succeeded'
  const seconds = number(e.duration_ms) / 1000
  const type = fileType(e.drop_file ?? '', e.kind ?? 'convert')
  t.by_file_type[type] ??= { processed: 0, failed: 0, total_time: 0 }
  const by = t.by_file_type[type]
  if (ok) {
    t.processed += 1
    t.total_processing_time += seconds
    by.processed += 1
    by.total_time += seconds
  } else if (e.state !== 'cancelled') {
    t.failed += 1
    by.failed += 1
  } else return
  t.recent.unshift({
    filename: e.drop_file ?? '',
    file_type: type,
    file_size_mb: ROUND(number(e.bytes) / 1_048_576),
    start_time: e.started_at ?? e.at ?? '',
    end_time: e.at ?? null,
    duration_seconds: ROUND(seconds, 3),
    status: ok ? 'success' : 'failed',
    error: e.error === undefined ? null : e.error.slice(0, 500),
    retry_count: Math.max(0, number(e.attempt) - 1),
    ...(e.job ? { job_id: e.job } : {}),
    ...(e.name ? { name: e.name } : {}),
  })
  t.recent.length = Math.min(t.recent.length, RECENT)
}

/** Counts what happened since the last look; without a position, all that is still there. */
async function follow(t: Totals, daemon: string): Promise<void> {
  const spool = { layout: { daemon } }
  let at = t.events === undefined || 'segment' in t.events ? t.events : await endOfEvents(spool, t.events)
  for (let more = true; more; ) {
    const read: Awaited<ReturnType<typeof readEvents>> = await readEvents(spool, at)
    for (const e of read.events) count(t, e as FinishedEvent)
    at = read.position
    t.events = at
    more = read.more
  }
}

/** Reads the totals of earlier runs. A damaged file is set aside and counting starts again. */
export async function openStats(s: StatsSource): Promise<Stats> {
  const path = join(s.dir, 'stats.json')
  let totals: Totals
  try {
    const text = await readFile(path, 'utf8')
    totals = restore(text)
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code !== 'ENOENT') throw e
    totals = restore('{}')
  }
  let reading: Promise<void> | undefined
  let saving: Promise<void> | undefined

  const update = (): Promise<void> => {
    reading ??= follow(totals, s.dir).finally(() => {
      reading = undefined
    })
    return reading
  }

  function now(): StatsSnapshot {
    const uptime = (Date.now() - s.startedAt.getTime()) / 1000
    const by: StatsSnapshot['by_file_type'] = {}
    for (const [type, v] of Object.entries(totals.by_file_type)) {
      by[type] = {
        processed: v.processed,
        failed: v.failed,
        success_rate_percent: rate(v.processed, v.failed),
        average_time_seconds: v.processed === 0 ? 0 : ROUND(v.total_time / v.processed, 3),
      }
    }
    return {
      daemon_start_time: s.startedAt.toISOString(),
      uptime_seconds: ROUND(uptime, 1),
      uptime_hours: ROUND(uptime / 3600),
      total_processed: totals.processed,
      total_failed: totals.failed,
      total_retried: totals.retried,
      success_rate_percent: rate(totals.processed, totals.failed),
      average_processing_time_seconds:
        totals.processed === 0 ? 0 : ROUND(totals.total_processing_time / totals.processed, 3),
      current_queue_depth: s.queueDepth(),
      current_jobs: s.current(),
      by_file_type: by,
      recent_completed: [...totals.recent],
      last_updated: new Date().toISOString(),
      ...s.extra?.(),
    }
  }

  async function write(): Promise<void> {
    await update()
    const kept = { ...now(), total_processing_time: totals.total_processing_time, events_read: totals.events }
    for (const [type, v] of Object.entries(totals.by_file_type)) {
      Object.assign(kept.by_file_type[type] as object, { total_time: v.total_time })
    }
    const temp = `${path}.${process.pid}.tmp`
    await writeFile(temp, `${JSON.stringify(kept, null, 2)}\n`)
    await rename(temp, path)
  }

  return {
    async snapshot() {
      await update()
      return now()
    },
    save() {
      saving ??= write().finally(() => {
        saving = undefined
      })
      return saving
    },
  }
}

/** Leaves out what is longest and least, until the reply fits a client that reads so many bytes and no more. */
export function shortenStats(stats: StatsSnapshot, fits: (s: StatsSnapshot) => boolean): StatsSnapshot {
  const s: StatsSnapshot = {
    ...stats,
    recent_completed: [...stats.recent_completed],
    current_jobs: [...stats.current_jobs],
    truncated: true,
  }
  const cut = (j: CurrentJob): CurrentJob => ({
    ...j,
    filename: j.filename.slice(-60),
    error: j.error === null ? null : j.error.slice(0, 80),
  })
  s.recent_completed = s.recent_completed.map(cut)
  s.current_jobs = s.current_jobs.map(cut)
  while (!fits(s) && s.recent_completed.length > 0) s.recent_completed.pop()
  while (!fits(s) && s.current_jobs.length > 0) s.current_jobs.pop()
  if (!fits(s)) s.by_file_type = {}
  return s
}
