import { Command, InvalidArgumentError, Option } from 'commander'
import type { CachedImage, ImageHooks } from '../../vm/images/index.ts'
import { CliError, exitCodes } from '../errors.ts'
import { imageProgress } from '../image-progress.ts'
import { type Column, type Format, formatOption, printRows } from '../output.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'
import { age, bytes } from '../units.ts'
import { interruptSignal } from '../waiting.ts'

interface Options extends SpoolOptions {
  output: Format
  quiet?: boolean
}

/** What `image list` prints: an image of the cache, or a template that was not fetched yet. */
type Row = { name: string; state: 'ready' | 'outdated' | 'absent' } & Partial<Omit<CachedImage, 'name' | 'current'>>

export default function define(): Command {
  const command = new Command('image')
    .description(
      'The cache of images that VMs are made from (docs/images.md). Agents fetch by themselves what a VM asks for; nothing here needs one.',
    )
    .addHelpText(
      'after',
      `
Examples:
  vmspool image list
  vmspool image pull debian-12                  fetch a template before the first VM asks for it
  vmspool image add golden ./golden.qcow2       then: vmspool vm create web --template golden
  vmspool image add alpine https://mirror.example/alpine.qcow2 --checksum sha512:9f2c…
  vmspool image rm golden
  vmspool image rm debian-12@3f9ac1             one of several images of that name, by its sha256`,
    )
  for (const sub of [listCommand(), pullCommand(), rmCommand(), addCommand()]) command.addCommand(sub)
  return command
}

function listCommand(): Command {
  return spoolOptions(new Command('list'))
    .description(
      'List the images of the cache and the templates of the configuration. ready: VMs can be made from it; outdated: another one has taken its place, VMs may still run on it; absent: not fetched yet.',
    )
    .addOption(formatOption())
    .action(list)
}

const columns: readonly Column<Row>[] = [
  { title: 'NAME', value: (r) => r.name },
  { title: 'STATE', value: (r) => r.state, paint: (r) => (r.state === 'ready' ? 'green' : undefined) },
  { title: 'FORMAT', value: (r) => r.format ?? '-' },
  { title: 'SIZE', value: (r) => (r.size_bytes === undefined ? '-' : bytes(r.size_bytes)), right: true },
  {
    title: 'DISK',
    value: (r) => (r.virtual_size_bytes === undefined ? '-' : bytes(r.virtual_size_bytes)),
    right: true,
  },
  { title: 'VMS', value: (r) => (r.in_use === undefined ? '-' : String(r.in_use)), right: true },
  { title: 'USED', value: (r) => (r.used_at === undefined ? '-' : `${age(r.used_at)} ago`), right: true },
  { title: 'SHA256', value: (r) => r.sha256?.slice(0, 12) ?? '-' },
  { title: 'SOURCE', value: (r) => r.source ?? '-' },
]

async function list(o: Options): Promise<void> {
  const { images, config } = await store(o)
  const found = await images.list()
  const there = new Set(found.filter((i) => i.current).map((i) => i.name))
  const { shown } = await import('../../vm/images/index.ts')
  const absent = Object.entries(config.templates)
    .filter(([name]) => !there.has(name))
    .map(([name, t]): Row => ({ name, state: 'absent', source: shown(t.url ?? t.path ?? '') }))
  const rows = [...found.map(row), ...absent].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))
  await print(o, rows, `The image cache ${images.dir} is empty, and the configuration has no templates.`)
}

function row({ current, ...i }: CachedImage): Row {
  return { ...i, state: current ? 'ready' : 'outdated' }
}

function print(o: Options, rows: readonly Row[], empty: string): Promise<void> {
  return printRows(o.output, rows, { columns, name: (r) => r.name, empty })
}

function pullCommand(): Command {
  return spoolOptions(new Command('pull'))
    .description(
      'Fetch templates, and go on with what was interrupted. Without a checksum the server is asked whether the image has changed.',
    )
    .argument('[name...]', 'templates of the configuration')
    .option('-a, --all', 'all of them')
    .option('-q, --quiet', 'no progress')
    .addOption(formatOption())
    .action(pull)
}

async function pull(names: string[], o: Options & { all?: boolean }): Promise<void> {
  const { images, config, ready } = await store(o)
  const wanted = o.all ? Object.keys(config.templates) : names
  if (wanted.length === 0)
    throw new CliError(
      exitCodes.usage,
      o.all
        ? 'The configuration has no templates (docs/images.md shows one).'
        : `Say which templates, or --all. The configuration has: ${Object.keys(config.templates).join(', ') || 'none'}.`,
    )
  await ready()
  const rows: Row[] = []
  for (const name of wanted) rows.push(row(await watched(name, o, (h) => images.get(name, { ...h, refresh: true }))))
  await print(o, rows, '')
}

function rmCommand(): Command {
  return spoolOptions(new Command('rm'))
    .alias('remove')
    .description('Remove images that no VM is based on: all of a name, or NAME@BEGINNING-OF-SHA256.')
    .argument('<name...>', 'names, as `vmspool image list` shows them')
    .addOption(formatOption(['name', 'json', 'yaml', 'table'], 'name'))
    .action(rm)
}

async function rm(names: string[], o: Options): Promise<void> {
  const { images, config, ready, vmDir } = await store(o)
  await ready()
  const vm_dirs = await vmDirs(config.root, vmDir)
  const rows: Row[] = []
  for (const name of names) rows.push(...(await told(() => images.remove(name, { vm_dirs }))).map(row))
  await print(o, rows, '')
}

function addCommand(): Command {
  return spoolOptions(new Command('add'))
    .description(
      'Take an image in, qcow2 or raw, from a file or a URL. It stays until it is removed by hand. The name of a template can be used for a file with its checksum: so images come to hosts without a network.',
    )
    .argument('<name>', 'how manifests call it')
    .argument('<source>', 'a file, which is copied, or a URL')
    .addOption(new Option('--checksum <checksum>', 'sha256:HEX or sha512:HEX of the file').argParser(parseChecksum))
    .addOption(new Option('--format <format>', 'what it is, when it cannot be told').choices(['qcow2', 'raw']))
    .option('-q, --quiet', 'no progress')
    .addOption(formatOption())
    .action(add)
}

async function add(
  name: string,
  source: string,
  o: Options & { checksum?: string; format?: 'qcow2' | 'raw' },
): Promise<void> {
  const { images, ready } = await store(o)
  await ready()
  const { checksum, format } = o
  const image = await watched(name, o, (h) =>
    images.add(name, source, {
      ...h,
      ...(checksum === undefined ? {} : { checksum }),
      ...(format === undefined ? {} : { format }),
    }),
  )
  await print(o, [row(image)], '')
}

function parseChecksum(text: string): string {
  const m = /^(?:(sha256|sha512):)?([0-9a-f]+)$/.exec(text.trim().toLowerCase())
  const algorithm = m?.[2]?.length === 64 ? 'sha256' : m?.[2]?.length === 128 ? 'sha512' : undefined
  if (!algorithm || (m?.[1] !== undefined && m[1] !== algorithm))
    throw new InvalidArgumentError('Write sha256: and 64 hexadecimal digits, or sha512: and 128.')
  return `${algorithm}:${m![2]}`
}

async function store(o: SpoolOptions) {
  const { locate, requireSpool } = await import('../../client/place.ts')
  const { imagesDir, openImages } = await import('../../vm/images/index.ts')
  const place = await locate(o)
  const { config, layout } = place
  const vmDir = config.vm.dir ?? layout.vms
  const images = openImages({
    dir: imagesDir(config, vmDir),
    templates: config.templates,
    max_bytes: config.images.max_bytes,
    max_age: config.images.max_age,
    reserve_bytes: config.space.reserve_bytes,
    max_virtual_size: config.convert.max_virtual_size,
  })
  /** MUST come before a change: no spool is made by looking for images in it */
  const ready = async (): Promise<void> => {
    if (images.dir.startsWith(`${layout.output}/`)) await requireSpool(place, 'read')
    await mayWrite(images.dir)
  }
  return { images, config, vmDir, ready }
}

/** Everywhere that VMs of this host may lie. */
async function vmDirs(root: string, own: string): Promise<string[]> {
  const { instancesBelow } = await import('../../client/agents.ts')
  const { join } = await import('node:path')
  const others = (await instancesBelow(root).catch(() => [])).map((i) => join(root, i, 'output', 'vms'))
  return [...new Set([own, ...others])]
}

/** @throws {CliError} that names who may */
async function mayWrite(dir: string): Promise<void> {
  const { access, constants, stat } = await import('node:fs/promises')
  const { dirname } = await import('node:path')
  let at = dir
  for (;;) {
    const s = await stat(at).catch((e: NodeJS.ErrnoException) => {
      if (e.code === 'ENOENT' && at !== '/') return undefined
      throw e
    })
    if (s) {
      const allowed = await access(at, constants.W_OK | constants.X_OK).then(
        () => true,
        () => false,
      )
      if (allowed) return
      const { execFileSync } = await import('node:child_process')
      let owner = `#${s.uid}`
      try {
        owner = execFileSync('id', ['-un', '--', String(s.uid)], {
          encoding: 'utf8',
          stdio: ['ignore', 'pipe', 'ignore'],
        }).trim()
      } catch {
        // a user without an account
      }
      throw new CliError(
        exitCodes.permission,
        `The image cache ${dir} may not be changed by this user: ${at === dir ? 'it' : at} belongs to ${owner}. Run this as ${owner} or root: sudo ${owner === 'root' ? '' : `-u ${owner} `}vmspool image …`,
      )
    }
    at = dirname(at)
  }
}

async function watched(name: string, o: Options, work: (h: ImageHooks) => Promise<CachedImage>): Promise<CachedImage> {
  const view = await imageProgress(name, o.quiet === true)
  const interrupt = interruptSignal()
  try {
    const { stop: _, ...hooks } = view
    return await told(() => work({ ...hooks, signal: interrupt.signal }))
  } catch (error) {
    if (!interrupt.signal.aborted) throw error
    throw new CliError(
      exitCodes.interrupted,
      'Interrupted. What was downloaded is kept; the same command goes on from there.',
    )
  } finally {
    interrupt.stop()
    view.stop()
  }
}

/** Failures of the cache with an exit code that says what kind they are. */
async function told<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    const { VmError } = await import('../../vm/types.ts')
    if (!(error instanceof VmError)) throw error
    const exitCode = error.transient
      ? exitCodes.tryAgain
      : error.code === 'storage'
        ? exitCodes.io
        : exitCodes.jobFailed
    const message = `${error.message}${error.hint === undefined ? '' : ` ${error.hint}`}`
    throw new CliError(exitCode, message)
  }
}
