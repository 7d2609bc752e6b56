/**
 * Progress for people, on stderr: a bar per job on a terminal, else one plain line whenever something changed (state,
 * phase, another tenth, or half a minute without news).
 */
import type { JobStatus } from '../spool/index.ts'
import { countsText } from '../text/counts.ts'
import { painted, type Paint, plain, wantsColour } from './output.ts'
import { bytes, duration } from './units.ts'

export interface ProgressView {
  update(status: JobStatus): void
  /** a sentence that must not be lost among the bars */
  note(text: string): void
  stop(): void
}

type Stream = NodeJS.WriteStream

export async function progressView(o: { stream?: Stream; quiet?: boolean; jobs?: number } = {}): Promise<ProgressView> {
  const stream = o.stream ?? process.stderr
  if (o.quiet) return { update() {}, note: (text) => stream.write(`${text}\n`), stop() {} }
  // More bars than lines on the screen would only flicker.
  const fits = (o.jobs ?? 1) < (stream.rows || 24) - 2
  return stream.isTTY && process.env.TERM !== 'dumb' && fits ? bars(stream) : lines(stream)
}

/** "inspect", "waiting for job …", "copy 1.2 GiB of 4.0 GiB, 210 MiB/s, 13 s left" */
export function describe(status: JobStatus): string {
  const parts: string[] = []
  const n = status.children
  if (status.state === 'running' && status.phase && n === undefined) parts.push(status.phase)
  if (status.state === 'running' && n !== undefined) parts.push(countsText(n))
  if (status.state !== 'running') parts.push(status.state)
  const p = status.progress
  if (status.state === 'running' && p?.bytes_total) {
    parts.push(`${bytes(p.bytes_done ?? 0)} of ${bytes(p.bytes_total)}`)
    if (p.rate_bytes_per_s) parts.push(`${bytes(p.rate_bytes_per_s)}/s`)
    if (p.eta_ms !== undefined && p.eta_ms !== null) parts.push(`${duration(p.eta_ms)} left`)
  }
  if (status.waiting_on) parts.push(`waiting for ${plain(waitingText(status.waiting_on))}`)
  else if (status.reason && status.state !== 'running') parts.push(plain(status.reason))
  return parts.join(', ')
}

export function waitingText(waiting: unknown): string {
  return typeof waiting === 'string' ? waiting : JSON.stringify(waiting)
}

export function percentOf(status: JobStatus): number | undefined {
  const p = status.progress
  if (p === undefined || p === null) return undefined
  if (typeof p.percent === 'number') return p.percent
  return p.bytes_total ? (100 * (p.bytes_done ?? 0)) / p.bytes_total : undefined
}

export function statePaint(state: JobStatus['state']): Paint | undefined {
  if (state === 'succeeded') return 'green'
  if (state === 'failed' || state === 'rejected') return 'red'
  if (state === 'running') return 'blue'
  if (state === 'retrying' || state === 'cancelled') return 'yellow'
  return undefined
}

function jobLabel(status: JobStatus): string {
  return `${plain(status.name)} (${status.id})`
}

const quietMs = 30_000

function lines(stream: Stream): ProgressView {
  const shown = new Map<string, { key: string; at: number }>()
  return {
    update(status) {
      const percent = percentOf(status)
      const tenth = status.state === 'running' && percent !== undefined ? Math.floor(percent / 10) : -1
      const key = `${status.state} ${status.phase ?? ''} ${tenth} ${status.attempt} ${waitingText(status.waiting_on ?? '')}`
      const before = shown.get(status.id)
      if (before !== undefined && before.key === key && performance.now() - before.at < quietMs) return
      shown.set(status.id, { key, at: performance.now() })
      const head = status.state === 'running' && percent !== undefined ? ` ${Math.floor(percent)} %` : ''
      stream.write(`${jobLabel(status)}:${head} ${describe(status)}\n`)
    },
    note: (text) => {
      stream.write(`${text}\n`)
    },
    stop() {},
  }
}

async function bars(stream: Stream): Promise<ProgressView> {
  const { default: cliProgress } = await import('cli-progress')
  const multi = new cliProgress.MultiBar(
    {
      stream,
      hideCursor: true,
      clearOnComplete: false,
      stopOnComplete: false,
      emptyOnZero: true,
      autopadding: true,
      barsize: 24,
      fps: 8,
      linewrap: false,
      gracefulExit: false,
      barCompleteChar: '█',
      barIncompleteChar: '░',
      format: ' {bar} {percent} {name}  {text}',
    },
    cliProgress.Presets.shades_classic,
  )
  const colour = wantsColour(stream)
  const open = new Map<string, ReturnType<typeof multi.create>>()
  let stopped = false
  return {
    update(status) {
      const percent = status.state === 'succeeded' ? 100 : (percentOf(status) ?? 0)
      const paint = colour ? statePaint(status.state) : undefined
      const text = describe(status)
      const payload = {
        percent: `${String(Math.floor(percent)).padStart(3)} %`,
        name: plain(status.name),
        text: paint === undefined ? text : painted(paint, text),
      }
      const bar = open.get(status.id)
      if (bar === undefined) open.set(status.id, multi.create(100, percent, payload))
      else bar.update(percent, payload)
    },
    note: (text) => multi.log(`${text}\n`),
    stop() {
      // Once: a second stop would move the cursor up, over what was printed since.
      if (stopped) return
      stopped = true
      multi.update()
      multi.stop()
    },
  }
}
