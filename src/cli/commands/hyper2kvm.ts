import { dirname, extname, join, resolve } from 'node:path'
import { Command } from 'commander'
import { type ConvertManifest, safeName } from '../../manifest/index.ts'
import type { Prepared } from '../../client/manifest-files.ts'
import { CliError, exitCodes } from '../errors.ts'
import { out, say } from '../output.ts'
import { convertHere } from '../convert/here.ts'
import { prepareConvert } from '../convert/prepare.ts'

interface Options {
  config?: string
  verbose?: boolean
  dryRun?: boolean
}

export default function define(): Command {
  return new Command('hyper2kvm')
    .description(
      'Convert what an Artifact Manifest names, here and now, without an agent: the way hyperexport calls hyper2kvm when no daemon runs. The results lie in the manifest\'s output.directory, else in "output" beside the manifest; an earlier result of that name is replaced. The boot disk is printed as "Output: PATH".',
    )
    .argument('<manifest>', 'the manifest (.json, .yaml)')
    .option('-v, --verbose', 'progress on stderr')
    .option('--dry-run', 'touch nothing; estimate size and time')
    .option('--config <file>', 'read this configuration file too')
    .addHelpText(
      'after',
      `
Examples:
  vmspool hyper2kvm /exports/web-01/artifact-manifest.json -v
  hyper2kvm /exports/web-01/artifact-manifest.json --dry-run

install.sh --hyper2kvm puts it where hyperexport looks for it, as the program "hyper2kvm".
Exit codes: 0 converted, 1 the conversion failed, 2 usage, 65 the manifest is bad, 73 a running VM uses the
earlier result, 130 interrupted (nothing is left behind).`,
    )
    .action(run)
}

async function run(file: string, o: Options): Promise<void> {
  const { locate } = await import('../../client/place.ts')
  const prepared = placed(await prepareConvert(file), file, o.dryRun === true)
  await refuseInUse(prepared)
  const place = await locate(o.config === undefined ? {} : { config: o.config })
  // Nobody polls for a .qcow2 of that name here.
  const own = { ...place, config: { ...place.config, poll_name: 'off' as const } }
  const { files, problem } = await convertHere(own, prepared, {
    output: prepared.output,
    overwrite: true,
    dryRun: prepared.dry,
    quiet: o.verbose !== true,
  })
  // The caller takes the first such line; what a data disk is called is in the report beside it.
  const boot = files.at(-1)
  if (boot !== undefined) out(`Output: ${boot}`)
  // as with hyper2kvm: the disks are what counts
  if (problem !== undefined) say(`warning: ${problem}`)
}

/** Where the results go and what they are called, which an agent decides otherwise: its spool has one place for all. */
function placed(p: Prepared, file: string, dryRun: boolean): Prepared & { output: string; name: string; dry: boolean } {
  const manifest = p.manifest as ConvertManifest
  const dry = dryRun || manifest.options?.dry_run === true
  const { directory, filename, ...output } = manifest.output ?? {}
  const folder = dirname(resolve(file))
  const named = filename === undefined ? undefined : stemOf(filename)
  if (named !== undefined && !safeName(named)) {
    throw new CliError(exitCodes.badManifest, `${file}: output.filename ${JSON.stringify(filename)} is no file name.`)
  }
  return {
    ...p,
    manifest: { ...manifest, output, options: { ...manifest.options, dry_run: dry } } as ConvertManifest,
    dry,
    output: resolve(folder, directory ?? 'output'),
    name: named ?? p.name ?? 'vm',
  }
}

function stemOf(filename: string): string {
  const ext = extname(filename)
  return ['.qcow2', '.raw', '.vdi'].includes(ext) ? filename.slice(0, -ext.length) : filename
}

/** The earlier result of this name is replaced, but not below a running VM. */
async function refuseInUse(p: { output: string; name: string }): Promise<void> {
  const { imageInUse } = await import('../../images/in-use.ts')
  for (const format of ['qcow2', 'raw', 'vdi']) {
    const path = join(p.output, `${p.name}.${format}`)
    const why = await imageInUse(path)
    if (why === undefined) continue
    throw new CliError(
      exitCodes.cannotCreate,
      `${path} would be replaced, but ${why}. Stop that VM, or give the manifest another output.directory.`,
    )
  }
}
