/** A manifest that one conversion can be made from, with its warnings told. */
import { ManifestError } from '../../client/errors.ts'
import type { Prepared } from '../../client/manifest-files.ts'
import { diagnosticText } from '../diagnostics.ts'
import { CliError, exitCodes } from '../errors.ts'
import { say, wantsColour } from '../output.ts'

/** @throws CliError 65 when it has errors, or is of another kind */
export async function prepareConvert(source: string): Promise<Prepared> {
  const { prepareManifest } = await import('../../client/manifest-files.ts')
  const prepared = await toldErrors(source, () => prepareManifest(source))
  const colour = wantsColour(process.stderr)
  for (const d of prepared.warnings) say(diagnosticText(source, d, colour))
  const { kind } = prepared.manifest
  if (kind === 'convert') return prepared
  throw new CliError(
    exitCodes.badManifest,
    kind === 'batch'
      ? `${source} is a batch of several VMs, and this command converts one. Submit it to an agent: vmspool submit --wait ${source}`
      : `${source} is a manifest of kind ${kind}, which converts nothing. Submit it: vmspool submit ${source}`,
  )
}

/** The errors of a manifest, each on a line of its own, instead of one exception. */
export async function toldErrors<T>(source: string, run: () => T | Promise<T>): Promise<T> {
  try {
    return await run()
  } catch (error) {
    if (!(error instanceof ManifestError)) throw error
    for (const d of error.diagnostics) say(diagnosticText(source, d, wantsColour(process.stderr)))
    throw new CliError(exitCodes.badManifest, `${source} is not a valid manifest.`)
  }
}
