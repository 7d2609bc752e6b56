import { fetchAnswer } from '../../client/fetch.ts'
import type { Prepared } from '../../client/manifest-files.ts'
import type { Place } from '../../client/place.ts'
import { errorTextOf } from '../../client/status.ts'
import { dropManifest } from '../../client/submit.ts'
import { CliError, exitCodes } from '../errors.ts'
import { interruptSignal, waitForAll } from '../waiting.ts'
import { type ConvertOptions, printPaths } from './options.ts'

/** Submits, waits, and copies the answer out of the spool. */
export async function convertThroughAgent(place: Place, prepared: Prepared, o: ConvertOptions): Promise<void> {
  const submission = await dropManifest(place, prepared)
  const { ended, exitCode } = await waitForAll(place, [submission], o)
  const status = ended[0]
  process.exitCode = exitCode
  if (status === undefined) return
  if (status.state !== 'succeeded') {
    const text = (await errorTextOf(place, status)) ?? status.reason ?? `The job ended as ${status.state}.`
    throw new CliError(exitCode || exitCodes.jobFailed, `Job ${status.id}: ${text}`)
  }
  const interrupt = interruptSignal()
  try {
    printPaths(await fetchAnswer(place, status, o.output, { signal: interrupt.signal }))
  } catch (error) {
    if (!interrupt.signal.aborted) throw error
    throw new CliError(
      exitCodes.interrupted,
      `Interrupted while copying; the result of job ${status.id} lies in ${place.layout.output}.`,
    )
  } finally {
    interrupt.stop()
  }
}
