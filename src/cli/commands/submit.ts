import { Command } from 'commander'
import { ManifestError } from '../../client/errors.ts'
import type { Prepared } from '../../client/manifest-files.ts'
import { diagnosticText } from '../diagnostics.ts'
import { exitCodes, explain } from '../errors.ts'
import { type Format, formatOption, say, wantsColour } from '../output.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'
import { finishSubmissions } from '../submitting.ts'
import { type WaitFlags, waitFlags } from '../waiting.ts'

interface Options extends SpoolOptions, WaitFlags {
  wait?: boolean
  output: Format
}

export default function define(): Command {
  return waitFlags(spoolOptions(new Command('submit')))
    .description(
      'Check manifests and drop them into the queue: each under a unique name, whole, and safe from power loss when this returns. ' +
        'A disk, OVA or OVF is submitted by a manifest that names it; it is read where it lies.',
    )
    .argument(
      '<file...>',
      'manifests (.json, .yaml, .yml) or disks (.vmdk .ova .ovf .vhd .vhdx .vdi .qcow2 .raw .img, all but .ovf also with .gz behind it)',
    )
    .option('-w, --wait', 'wait until the jobs have ended; the exit code is then their outcome')
    .addOption(formatOption())
    .addHelpText(
      'after',
      `
Examples:
  vmspool submit export/artifact-manifest.json
  vmspool submit --instance vsphere --wait --timeout 4h export/artifact-manifest.json
  vmspool submit *.vmdk -o name

Without --wait the exit code says whether the drop was made (65: a manifest is bad, nothing at all was
dropped). With --wait: 0 all succeeded, 1 one failed or was cancelled, 65 one was rejected,
69 no agent, 124 timed out, 130 interrupted; the jobs go on in the last three cases.`,
    )
    .action(run)
}

async function run(files: string[], o: Options): Promise<void> {
  const { locate, requireSpool } = await import('../../client/place.ts')
  const { dropManifests } = await import('../../client/submit.ts')
  const place = await locate(o)
  await requireSpool(place, 'submit')
  const prepared = await prepareAll(files)
  if (prepared === undefined) return
  const submissions = await dropManifests(place, prepared)
  process.exitCode = await finishSubmissions(place, submissions, o)
}

/** Checks every file before the first is dropped: half of a batch is worse than none. */
async function prepareAll(files: readonly string[]): Promise<Prepared[] | undefined> {
  const { diskManifest, isDiskFile, prepareManifest } = await import('../../client/manifest-files.ts')
  const { access } = await import('node:fs/promises')
  const prepared: Prepared[] = []
  const colour = wantsColour(process.stderr)
  let worst: number = exitCodes.ok
  for (const file of files) {
    try {
      if (isDiskFile(file)) await access(file)
      const p = isDiskFile(file) ? await diskManifest(file) : await prepareManifest(file)
      for (const d of p.warnings) say(diagnosticText(file, d, colour))
      prepared.push(p)
    } catch (error) {
      if (error instanceof ManifestError) for (const d of error.diagnostics) say(diagnosticText(file, d, colour))
      const { message, exitCode } = explain(error)
      say(`vmspool submit: ${error instanceof ManifestError ? `${file} is not a valid manifest.` : message}`)
      worst ||= exitCode
    }
  }
  if (worst === exitCodes.ok) return prepared
  if (files.length > 1)
    say(`Nothing was submitted: correct the file${files.length - prepared.length === 1 ? '' : 's'} named above first.`)
  process.exitCode = worst
  return undefined
}
