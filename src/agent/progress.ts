/** Rate and remaining time from byte counts: over the last ten seconds, so that a slow start does not spoil the forecast. */
import type { JobProgress } from '../jobs/types.ts'

export interface ProgressFields {
  bytes_done?: number
  bytes_total?: number
  percent?: number
  rate_bytes_per_s?: number
  eta_ms?: number
  message?: string
}

const WINDOW_MS = 10_000

export function progressMeter(now: () => number = () => performance.now()): (p: JobProgress) => ProgressFields {
  let phase = ''
  let samples: { at: number; bytes: number }[] = []
  return (p) => {
    const out: ProgressFields = {}
    if (p.message !== undefined) out.message = p.message
    if (p.percent !== undefined) out.percent = p.percent
    if (p.phase !== phase) {
      phase = p.phase
      samples = []
    }
    if (p.bytes_done === undefined) return out
    out.bytes_done = Math.round(p.bytes_done)
    const at = now()
    if (samples.length > 0 && p.bytes_done < (samples.at(-1)?.bytes ?? 0)) samples = []
    samples.push({ at, bytes: p.bytes_done })
    while (samples.length > 2 && at - (samples[1]?.at ?? at) > WINDOW_MS) samples.shift()
    if (samples.length > 256) samples = samples.filter((_, i) => i % 2 === 0 || i === samples.length - 1)
    const first = samples[0] as { at: number; bytes: number }
    const ms = at - first.at
    if (ms >= 200) out.rate_bytes_per_s = Math.round(((p.bytes_done - first.bytes) * 1000) / ms)
    if (p.bytes_total !== undefined) {
      out.bytes_total = Math.round(p.bytes_total)
      if (p.bytes_total > 0) out.percent = Math.min(100, Math.floor((1000 * p.bytes_done) / p.bytes_total) / 10)
      if (out.rate_bytes_per_s) {
        out.eta_ms = Math.max(0, Math.round(((p.bytes_total - p.bytes_done) * 1000) / out.rate_bytes_per_s))
      }
    }
    return out
  }
}
