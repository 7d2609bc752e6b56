import { access } from 'node:fs/promises'
import { extname, resolve } from 'node:path'
import { Command, Option } from 'commander'
import type { Prepared } from '../../client/manifest-files.ts'
import type { Place } from '../../client/place.ts'
import { CliError, exitCodes } from '../errors.ts'
import { say } from '../output.ts'
import { type ConvertOptions, printPaths } from '../convert/options.ts'
import { prepareConvert, toldErrors } from '../convert/prepare.ts'
import { spoolOptions } from '../spool-options.ts'
import { waitFlags } from '../waiting.ts'

export default function define(): Command {
  const command = new Command('convert')
    .description(
      'Convert a disk, an OVA or what a manifest names, into a folder. A live agent of the instance does it when there is one, so that its limits hold; else the very same engine runs here. Which of the two is said on stderr; the paths made are printed on stdout, the boot disk last.',
    )
    .argument(
      '<source>',
      'a disk (.vmdk .vhd .vhdx .vdi .qcow2 .raw .img) or .ova, also with .gz behind it, an .ovf, or a manifest',
    )
    .requiredOption('-o, --output <dir>', 'the folder for the results; made when missing')
    .option('--name <name>', 'what the results are called (default: as the manifest says, or as the source is called)')
    .addOption(
      new Option(
        '--format <format>',
        'format of the results (default: as the manifest or the configuration says)',
      ).choices(['qcow2', 'raw', 'vdi']),
    )
    .option('--compress', 'compress the result (qcow2); good for archives, slow for running VMs')
    .option('--no-compress', 'do not compress it')
    .addOption(
      new Option('--path <path>', 'how disks are copied (default: the fastest that can be used)').choices([
        'auto',
        'zero-copy',
        'inflate',
        'qemu-img',
      ]),
    )
    .option('--strict', 'compress every cluster anew, for readers with a window of 4 KiB')
    .addOption(new Option('--grains <check>', 'how grains of a zero copy are checked').choices(['full', 'structure']))
    .addOption(new Option('--compare <how>', 'compare the result with its source').choices(['none', 'sample', 'full']))
    .option('--checksum', 'put the SHA-256 of each result into its report')
    .option('--direct', 'do not look for an agent')
    .option('--overwrite', 'replace results of that name')
    .option('--dry-run', 'touch nothing; estimate size and time')
  return waitFlags(spoolOptions(command))
    .addHelpText(
      'after',
      `
Examples:
  vmspool convert web-01.vmdk -o /var/lib/images
  vmspool convert appliance.ova -o . --name appliance --format raw
  vmspool convert export/artifact-manifest.json -o out --compress --instance vsphere
  vmspool convert appliance.ova -o archive --compress --compare sample --checksum

Exit codes: 0 converted, 1 the conversion failed, 65 the manifest is bad, 124 --timeout passed (with an
agent the job goes on), 130 interrupted (with an agent the job goes on; directly nothing is left behind).`,
    )
    .action(run)
}

async function run(source: string, o: ConvertOptions): Promise<void> {
  const { locate } = await import('../../client/place.ts')
  const prepared = await prepare(source, o)
  const place = await locate(o)
  const name = prepared.name ?? 'vm'
  if (!o.overwrite && !o.dryRun) await refuseExisting(resolve(o.output), name)
  const agent = o.direct || o.dryRun ? undefined : await findAgent(place)
  if (agent !== undefined) {
    say(`Converting "${name}" through the agent of "${place.instance}" (pid ${agent.pid} on ${agent.host}).`)
    const { convertThroughAgent } = await import('../convert/through-agent.ts')
    return convertThroughAgent(place, prepared, o)
  }
  const why = o.direct ? 'as asked' : o.dryRun ? 'as a dry run' : `no agent of "${place.instance}" is running`
  say(`Converting "${name}" directly (${why}).`)
  const { convertHere } = await import('../convert/here.ts')
  const { files, problem } = await convertHere(place, prepared, o)
  printPaths(files)
  if (problem !== undefined) throw new CliError(exitCodes.jobFailed, problem)
}

/** The manifest of the source, with what the command line says put over it. */
async function prepare(source: string, o: ConvertOptions): Promise<Prepared> {
  const { diskManifest, isDiskFile, prepareBytes } = await import('../../client/manifest-files.ts')
  return toldErrors(source, async () => {
    if (isDiskFile(source)) {
      await access(source)
      const request = { name: o.name, format: o.format, compress: o.compress }
      return withOptions(await diskManifest(source, definedOnly(request)), o, prepareBytes)
    }
    if (!['.json', '.yaml', '.yml'].includes(extname(source).toLowerCase())) await diskManifest(source)
    return withOptions(await prepareConvert(source), o, prepareBytes)
  })
}

function withOptions(
  prepared: Prepared,
  o: ConvertOptions,
  again: (bytes: Uint8Array, path: string, folder: string) => Prepared,
): Prepared {
  const m = prepared.manifest as Record<string, unknown>
  const over: Record<string, unknown> = {
    name: o.name,
    source: o.name === undefined ? undefined : { vm_name: o.name },
    compress: o.compress,
    output: block({ format: o.format, checksum: o.checksum }),
    convert: block({ path: o.path, strict: o.strict }),
    validate: block({ grains: o.grains, compare: o.compare }),
    options: o.dryRun ? { dry_run: true } : undefined,
  }
  const changes = Object.entries(over).filter(([, v]) => v !== undefined)
  if (changes.length === 0) return prepared
  const changed = { ...m }
  for (const [key, v] of changes) {
    const isBlock = typeof v === 'object' && v !== null
    changed[key] = isBlock ? { ...(m[key] as object | undefined), ...v } : v
  }
  const bytes = Buffer.from(`${JSON.stringify(changed, null, 2)}\n`)
  const stem = prepared.fileName.slice(0, prepared.fileName.length - extname(prepared.fileName).length)
  return { ...again(bytes, `${stem}.json`, process.cwd()), warnings: prepared.warnings }
}

/** What of a block was asked for, if anything was. */
function block(values: Record<string, unknown>): Record<string, unknown> | undefined {
  const given = definedOnly(values)
  return Object.keys(given).length === 0 ? undefined : given
}

function definedOnly<T extends object>(value: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(value).filter(([, v]) => v !== undefined)) as never
}

async function findAgent(place: Place): Promise<{ pid: number; host: string } | undefined> {
  const { liveAgent } = await import('../../client/liveness.ts')
  const { interruptSignal } = await import('../waiting.ts')
  const interrupt = interruptSignal()
  try {
    return await liveAgent(place, place.config.lease.timeout, {
      signal: interrupt.signal,
      onWatch: (hosts) => say(`Looking whether the agent on ${hosts.join(', ')} is alive …`),
    })
  } catch (error) {
    if (interrupt.signal.aborted) throw new CliError(exitCodes.interrupted, 'Interrupted; nothing was converted.')
    if (['EACCES', 'EPERM'].includes(String((error as NodeJS.ErrnoException).code))) return undefined
    throw error
  } finally {
    interrupt.stop()
  }
}

/** Said before any work is done, alike with and without an agent. */
async function refuseExisting(dir: string, name: string): Promise<void> {
  const { readdir } = await import('node:fs/promises')
  let there: string[]
  try {
    there = await readdir(dir)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
    throw error
  }
  const mine = ['.qcow2', '.raw', '.vdi', '.disks', '.report.json', '.result.json', '.xml'].map((s) => name + s)
  const found = there.filter((f) => mine.includes(f))
  if (found.length === 0) return
  throw new CliError(
    exitCodes.cannotCreate,
    `${dir} holds ${found.join(', ')} already. Choose another folder or --name, or replace them with --overwrite.`,
  )
}
