/**
 * Prometheus metrics `vmspool_*`: base units, no ids as labels (an id makes a series that is never seen again).
 * prom-client is loaded by the first scrape; until then counts are kept here, so that an agent nobody scrapes stays small.
 */
import type { Counter, Histogram, Registry } from 'prom-client'

type Labels = Record<string, string>

const COUNTERS = {
  vmspool_drops_accepted_total: ['Drops that became jobs', ['kind']],
  vmspool_drops_rejected_total: ['Drops that were answered with an error', []],
  vmspool_jobs_finished_total: ['Jobs that this agent committed, by outcome', ['kind', 'outcome']],
  vmspool_jobs_retried_total: ['Failed attempts that will be repeated', ['kind']],
  vmspool_jobs_given_back_total: ['Claims given back unfinished', ['kind']],
  vmspool_jobs_reaped_total: ['Claims of dead agents put back into the queue', []],
  vmspool_jobs_published_total: ['Answers published, whoever committed them', ['outcome']],
  vmspool_fenced_total: ['Attempts that lost their job to another agent', []],
  vmspool_output_bytes_total: ['Bytes of published artifacts', ['kind']],
  vmspool_loop_errors_total: ['Rounds of an agent loop that failed', ['loop']],
  vmspool_control_requests_total: ['Requests on the control socket', ['command']],
  vmspool_leftover_groups_ended_total: ['Process groups of dead agents that were ended', []],
} as const satisfies Record<string, readonly [string, readonly string[]]>

const HISTOGRAMS = {
  vmspool_job_duration_seconds: [
    'Time from claim to commit',
    ['kind', 'outcome'],
    [0.01, 0.1, 1, 10, 60, 300, 900, 3600, 14400, 43200],
  ],
  vmspool_job_wait_seconds: [
    'Time from drop to the start of the handler',
    ['kind'],
    [0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 10, 60, 600, 3600, 86400],
  ],
} as const satisfies Record<string, readonly [string, readonly string[], readonly number[]]>

export type CounterName = keyof typeof COUNTERS
export type HistogramName = keyof typeof HISTOGRAMS

/** Read at scrape time; a label set per value. */
export interface GaugeSample {
  name: string
  help: string
  values: { labels?: Labels; value: number }[]
  /** counter: only ever grows, and is counted elsewhere */
  kind?: 'counter'
}

export interface Metrics {
  inc(name: CounterName, labels?: Labels, by?: number): void
  observe(name: HistogramName, value: number, labels?: Labels): void
  /** the text of a scrape, and its content type */
  scrape(): Promise<{ text: string; type: string }>
}

/** Durations remembered before the first scrape; beyond this prom-client is loaded and takes them over. */
const MAX_BACKLOG = 2048

export function createMetrics(gauges: () => GaugeSample[] | Promise<GaugeSample[]>): Metrics {
  let backlog: ((m: Loaded) => void)[] = []
  let loaded: Loaded | undefined
  let loading: Promise<Loaded> | undefined
  const early = new Map<string, { name: CounterName; labels: Labels; by: number }>()

  const get = (): Promise<Loaded> => {
    loading ??= load().then((m) => {
      loaded = m
      for (const e of early.values()) m.counters.get(e.name)?.inc(e.labels, e.by)
      for (const replay of backlog) replay(m)
      early.clear()
      backlog = []
      return m
    })
    return loading
  }
  return {
    inc(name, labels = {}, by = 1) {
      if (loaded) {
        loaded.counters.get(name)?.inc(labels, by)
        return
      }
      const key = `${name} ${JSON.stringify(labels)}`
      const e = early.get(key)
      if (e) e.by += by
      else early.set(key, { name, labels, by })
    },
    observe(name, value, labels = {}) {
      if (loaded) loaded.histograms.get(name)?.observe(labels, value)
      else {
        backlog.push((m) => m.histograms.get(name)?.observe(labels, value))
        if (backlog.length > MAX_BACKLOG) get().catch(() => {})
      }
    },
    async scrape() {
      const m = await get()
      const samples = await gauges()
      const now = new m.client.Registry()
      for (const s of samples) {
        const names = [...new Set(s.values.flatMap((v) => Object.keys(v.labels ?? {})))]
        const how = { name: s.name, help: s.help, labelNames: names, registers: [now] }
        if (s.kind === 'counter') {
          const c = new m.client.Counter(how)
          for (const v of s.values) c.inc(v.labels ?? {}, v.value)
        } else {
          const g = new m.client.Gauge(how)
          for (const v of s.values) g.set(v.labels ?? {}, v.value)
        }
      }
      return { text: (await m.registry.metrics()) + (await now.metrics()), type: m.registry.contentType }
    },
  }
}

interface Loaded {
  client: typeof import('prom-client')
  registry: Registry
  counters: Map<string, Counter>
  histograms: Map<string, Histogram>
}

async function load(): Promise<Loaded> {
  const client = await import('prom-client')
  const registry = new client.Registry()
  const counters = new Map<string, Counter>()
  const histograms = new Map<string, Histogram>()
  for (const [name, [help, labelNames]] of Object.entries(COUNTERS)) {
    counters.set(name, new client.Counter({ name, help, labelNames: [...labelNames], registers: [registry] }))
  }
  for (const [name, [help, labelNames, buckets]] of Object.entries(HISTOGRAMS)) {
    histograms.set(
      name,
      new client.Histogram({ name, help, labelNames: [...labelNames], buckets: [...buckets], registers: [registry] }),
    )
  }
  return { client, registry, counters, histograms }
}
