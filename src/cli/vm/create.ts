import { Command } from 'commander'
import type { Place } from '../../client/place.ts'
import { nearest } from '../../text/nearest.ts'
import { CliError, exitCodes } from '../errors.ts'
import { type Format, formatOption, say } from '../output.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'
import { type WaitFlags, waitFlags } from '../waiting.ts'
import { type CreateOptions, createFields, createOptions } from './options.ts'
import { checked, submitVmJobs } from './submit.ts'

interface Options extends SpoolOptions, WaitFlags, CreateOptions {
  wait?: boolean
  dryRun?: boolean
  ghost?: boolean
  output: Format
  vcpus?: number
  memory?: string
}

/** What ghostctl takes when no template is named. */
const GHOSTS_TEMPLATE = 'ubuntu-22.04'

export default function define(): Command {
  const command = createOptions(
    new Command('create')
      .summary('make a VM and start it')
      .description(
        'Make a VM and start it, as a job of an agent. The same again is the same VM, not a second one; what failed leaves nothing behind.',
      )
      .argument('[name]', 'what it is called'),
  )
  return waitFlags(spoolOptions(command))
    .option('-w, --wait', 'wait until it is there, with its address; the exit code is the outcome')
    .option('-n, --dry-run', 'print the manifest, and submit nothing')
    .option('--ghost', 'print what ghostctl prints')
    .addOption(formatOption())
    .addHelpText(
      'after',
      `
Examples:
  vmspool vm create web --template debian-12 --ssh-key ~/.ssh/id_ed25519.pub --wait
  vmspool vm create --name web --vcpu 2 --ram 4 --disk 50 --template ubuntu-22.04
  vmspool vm create db --from-job db-export --ram 16G --network lan --network bridge:br0,model=e1000
  vmspool vm create test --image ./test.qcow2 --disk-extra 100G --uefi --no-start
  vmspool vm create web --template debian-12 --user-data web.yaml --dry-run > web.json

Exit codes: 0 submitted, or with --wait made; 1 it failed; 65 something in it cannot be; 69 no agent;
124 --timeout passed, 130 interrupted (the job goes on in the last three cases).`,
    )
    .action(run)
}

async function run(positional: string | undefined, typed: Options): Promise<void> {
  const o: Options = { ...typed, ...both('vcpu', typed.vcpu, typed.vcpus), ...both('ram', typed.ram, typed.memory) }
  const name = nameOf(positional, o)
  const sources = [o.template, o.image, o.fromJob].filter((s) => s !== undefined)
  if (sources.length > 1)
    throw new CliError(exitCodes.usage, 'A VM boots from one of --template, --image and --from-job, not from several.')
  const { locate, requireSpool } = await import('../../client/place.ts')
  const { vmJob } = await import('../../client/vm-manifest.ts')
  const place = await locate(o)
  if (!o.dryRun) await requireSpool(place, 'submit')
  if (sources.length === 0) o.template = await defaultTemplate(place)
  else if (o.template !== undefined) await warnUnknown(place, o.template)
  const fields = await createFields(o)
  const prepared = await checked(() => vmJob('create', name, fields))
  process.exitCode = await submitVmJobs(place, [{ name, prepared }], o)
}

function both<T>(key: string, a: T | undefined, b: T | undefined): Record<string, T> {
  const value = a ?? b
  return value === undefined ? {} : { [key]: value }
}

function nameOf(positional: string | undefined, o: Options): string {
  if (positional !== undefined && o.name !== undefined && positional !== o.name)
    throw new CliError(exitCodes.usage, `Two names were given: "${positional}" and --name "${o.name}". Keep one.`)
  const name = positional ?? o.name
  if (name === undefined)
    throw new CliError(exitCodes.usage, 'A VM needs a name: vmspool vm create NAME, or --name NAME.')
  return name
}

async function templatesOf(place: Place): Promise<string[]> {
  const { imagesDir, openImages } = await import('../../vm/images/index.ts')
  const { config } = place
  const images = openImages({
    dir: imagesDir(config, config.vm.dir ?? place.layout.vms),
    templates: config.templates,
    max_bytes: config.images.max_bytes,
    max_age: config.images.max_age,
    log: { info() {}, warn() {} },
  })
  const cached = await images.list().catch(() => [])
  return [...new Set([...Object.keys(config.templates), ...cached.map((i) => i.name)])].sort()
}

/** ghostctl has a template that it takes when none is named; here it is taken where there is one of that name. */
async function defaultTemplate(place: Place): Promise<string> {
  const known = await templatesOf(place)
  if (known.includes(GHOSTS_TEMPLATE)) return GHOSTS_TEMPLATE
  const those =
    known.length > 0
      ? `The templates here: ${known.join(', ')}.`
      : 'There are no templates here; `vmspool image add` takes one in.'
  throw new CliError(
    exitCodes.usage,
    `It is not said what the VM boots from: --template NAME, --image FILE or --from-job JOB. ${those}`,
  )
}

/** The agent's configuration decides, which need not be ours. */
async function warnUnknown(place: Place, template: string): Promise<void> {
  const known = await templatesOf(place)
  if (known.includes(template)) return
  const near = nearest(template, known)
  say(
    `No template "${template}" is known here${near === undefined ? '' : ` (did you mean "${near}"?)`}; the agent's configuration decides.`,
  )
}
