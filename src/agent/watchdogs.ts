/** What ends an attempt that does not end by itself. */
import type { Agent, RunningJob } from './state.ts'

/** The timeout that the manifest asks for, and the watch over copies that stand still. No other limit is set on work. */
export function watchdogs(a: Agent, job: RunningJob): { stop(): void } {
  const stops: (() => void)[] = []
  // What is configured is for work; a batch works only through its children, each with its own.
  // A command's shim counts from the command's own start, whichever agent looks after it.
  const own = job.weight === 0 ? 0 : a.config.timeouts.job
  const limit = job.claim.record.kind === 'command' ? 0 : (job.claim.record.manifest.timeout_ms ?? own)
  if (limit > 0) {
    const t = setTimeout(
      () =>
        job.abort({
          kind: 'timeout',
          message: `The job ran longer than its timeout of ${limit / 1000} s and was stopped. Give it a larger "timeout", or none, and drop it again.`,
        }),
      Math.min(limit, 2 ** 31 - 1),
    )
    stops.push(() => clearTimeout(t))
  }
  const patience = a.config.convert.no_progress_timeout
  if (patience > 0 && job.claim.record.kind === 'convert') {
    let last = job.progress
    let since = performance.now()
    const t = setInterval(
      () => {
        const p = job.progress
        // Only a phase that counts bytes can stand still; others end when they end.
        if (p.phase !== last.phase || p.bytes_done !== last.bytes_done || p.bytes_total === undefined) {
          last = p
          since = performance.now()
        } else if (performance.now() - since > patience) {
          job.abort({
            kind: 'stalled',
            message: `The phase "${p.phase}" made no progress for ${Math.round(patience / 1000)} s (at ${p.bytes_done} of ${p.bytes_total} bytes) and was stopped.`,
          })
        }
      },
      Math.max(10, Math.min(5000, patience / 4)),
    )
    stops.push(() => clearInterval(t))
  }
  return {
    stop() {
      for (const s of stops) s()
    },
  }
}
