/** A job's status in a few words, for one line of a list or of a progress display. */
import { countsText } from '../text/counts.ts'
import type { Paint } from '../text/paint.ts'
import { bytes, duration } from '../text/people.ts'
import { plain } from '../text/width.ts'
import type { JobStatus } from '../spool/schema.ts'

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
  const said = saidOf(status)
  if (said !== undefined) parts.push(plain(said))
  if (status.waiting_on) parts.push(`waiting for ${plain(waitingText(status.waiting_on))}`)
  else if (status.reason && status.state !== 'running') parts.push(plain(status.reason.split('\n')[0]!))
  return parts.join(', ')
}

/** What a job that works on a VM says it does or waits for; of other phases the message is a disk's name. */
export function saidOf(status: JobStatus): string | undefined {
  const said = status.kind === 'vm' || status.phase === 'define' ? status.progress?.message : undefined
  return status.state === 'running' && said ? said.split('\n')[0] : undefined
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
