import type { Prepared } from '../../client/manifest-files.ts'
import type { Place } from '../../client/place.ts'
import { convertDirectly } from '../../jobs/direct.ts'
import type { AbortReason, JobProgress } from '../../jobs/types.ts'
import type { ConvertManifest } from '../../manifest/index.ts'
import type { JobStatus } from '../../spool/index.ts'
import { CliError, exitCodes } from '../errors.ts'
import { out, say } from '../output.ts'
import { progressView } from '../progress.ts'
import { interruptSignal } from '../waiting.ts'
import type { Vms } from '../../vm/index.ts'
import type { ConvertOptions } from './options.ts'

type HereOptions = Pick<ConvertOptions, 'output' | 'overwrite' | 'dryRun' | 'quiet' | 'timeout'>

/**
 * Runs the agent's own engine in this process.
 * @returns absolute paths of the results, the boot disk last; none after a dry run, whose estimate is printed. `problem`: they are there, but the VM
 * that was asked for is not
 */
export async function convertHere(
  place: Place,
  prepared: Prepared,
  o: HereOptions,
): Promise<{ files: string[]; problem?: string }> {
  const view = await progressView({ quiet: o.quiet === true })
  const name = prepared.name ?? 'vm'
  const show = meter(name, (status) => view.update(status))
  const interrupt = interruptSignal()
  const stop = stopSignal(interrupt.signal, o.timeout)
  const errors: string[] = []
  const manifest = prepared.manifest as ConvertManifest
  // the configuration speaks to agents; here only who asks gets a VM
  const asked = manifest.libvirt_integration?.enabled === true
  let vms: Promise<Vms> | undefined
  try {
    const { outcome, files } = await convertDirectly({
      manifest: asked
        ? manifest
        : { ...manifest, libvirt_integration: { ...manifest.libvirt_integration, enabled: false } },
      name,
      outputDir: o.output,
      overwrite: o.overwrite === true,
      config: place.config,
      ...(asked ? { vms: () => (vms ??= import('./vms-here.ts').then(({ vmsHere }) => vmsHere(place))) } : {}),
      signal: stop.signal,
      progress: show,
      log: (stream, text) => {
        if (stream === 'stderr') errors.push(String(text))
      },
    })
    show({ phase: 'done' }, 'succeeded')
    view.stop()
    // what is missing is said last, as the error that it is
    for (const w of (outcome.warnings ?? []).filter((x) => x.message !== outcome.not_defined))
      say(`warning: ${w.message}`)
    say(outcome.summary)
    if (o.dryRun) out(JSON.stringify(outcome.estimate ?? {}, null, 2))
    const problem = outcome.not_defined
    return { files, ...(typeof problem === 'string' ? { problem } : {}) }
  } catch (error) {
    view.stop()
    if (interrupt.signal.aborted) throw new CliError(exitCodes.interrupted, 'Interrupted; nothing was left behind.')
    if (stop.timedOut())
      throw new CliError(exitCodes.timedOut, 'The timeout passed before the conversion ended; nothing was left behind.')
    throw error
  } finally {
    await vms?.then(
      (v) => v[Symbol.asyncDispose](),
      () => {}, // it was never opened
    )
    view.stop()
    stop.end()
    interrupt.stop()
  }
}

function stopSignal(
  interrupt: AbortSignal,
  timeoutMs: number | undefined,
): { signal: AbortSignal; timedOut(): boolean; end(): void } {
  const controller = new AbortController()
  let late = false
  const abort = (reason: AbortReason): void => controller.abort(reason)
  interrupt.addEventListener('abort', () => abort({ kind: 'cancel', message: 'Interrupted.' }), { once: true })
  const timer =
    timeoutMs === undefined
      ? undefined
      : setTimeout(() => {
          late = true
          abort({ kind: 'timeout', message: 'The timeout passed.' })
        }, timeoutMs)
  return { signal: controller.signal, timedOut: () => late, end: () => clearTimeout(timer) }
}

/** What a handler reports, as the status that an agent would make of it. */
function meter(
  name: string,
  update: (status: JobStatus) => void,
): (p: JobProgress, state?: JobStatus['state']) => void {
  const accepted = new Date().toISOString()
  let phase = ''
  let began = { at: performance.now(), bytes: 0 }
  return (p, state = 'running') => {
    if (p.phase !== phase) began = { at: performance.now(), bytes: p.bytes_done ?? 0 }
    phase = p.phase
    const seconds = (performance.now() - began.at) / 1000
    const rate = seconds > 0.5 && p.bytes_done !== undefined ? (p.bytes_done - began.bytes) / seconds : 0
    const progress =
      p.bytes_total === undefined || p.bytes_done === undefined
        ? undefined
        : {
            bytes_done: p.bytes_done,
            bytes_total: p.bytes_total,
            percent: p.bytes_total === 0 ? 100 : (100 * p.bytes_done) / p.bytes_total,
            rate_bytes_per_s: Math.round(rate),
            ...(rate > 0 ? { eta_ms: Math.round((1000 * (p.bytes_total - p.bytes_done)) / rate) } : {}),
          }
    update({
      schema: 1,
      id: 'direct',
      name,
      kind: 'convert',
      state,
      phase: p.phase,
      since: accepted,
      accepted_at: accepted,
      attempt: 1,
      epoch: 0,
      priority: 5,
      drop_file: '',
      ...(progress === undefined ? {} : { progress }),
    } as JobStatus)
  }
}
