import { Command, Option } from 'commander'
import type { VmView, VmViews } from '../../client/vms.ts'
import { vmPaint, vmRemark } from '../../client/vm-describe.ts'
import { type Column, type Format, formatOption, out, printRows, say } from '../output.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'
import { age, bytes, duration } from '../units.ts'
import { ghostList } from './ghost.ts'

interface Options extends SpoolOptions {
  all?: boolean
  state?: string[]
  live: boolean
  ghost?: boolean
  output: Format
}

const STATES = ['running', 'stopped', 'paused', 'error', 'missing', 'unknown'] as const

export default function define(): Command {
  return spoolOptions(new Command('list').summary('list the VMs'))
    .description(
      'List the VMs of the instance: from the registry, with their states from libvirt where this user may ask it, else as the agent saw them.',
    )
    .option('-a, --all', 'also what vmspool did not make, marked; it is never touched')
    .addOption(new Option('-s, --state <state...>', 'only these').choices([...STATES]))
    .option('--no-live', 'do not ask libvirt')
    .option('--ghost', 'in the columns of ghostctl')
    .addOption(formatOption())
    .addHelpText(
      'after',
      `
Examples:
  vmspool vm list
  vmspool vm list --all -o json | jq '.[] | select(.drift != [])'
  vmspool vm list --state running -o name | xargs vmspool vm stop`,
    )
    .action(run)
}

async function run(o: Options): Promise<void> {
  const { locate, requireSpool } = await import('../../client/place.ts')
  const { vmsOf } = await import('../../client/vms.ts')
  const place = await locate(o)
  const views = await vmsOf(place, { all: o.all ?? false, live: o.live })
  // a typing mistake in --instance is no empty list
  if (views.vms.length === 0 && views.reports.length === 0) await requireSpool(place, 'read')
  const vms = o.state === undefined ? views.vms : views.vms.filter((v) => o.state!.includes(v.state))
  if (o.ghost) return out(ghostList(vms))
  await printRows(o.output, vms, {
    columns: o.all ? [...columns, ownerColumn] : columns,
    name: (v) => v.name,
    empty: 'There are no VMs. Make one: vmspool vm create NAME --template TEMPLATE.',
  })
  if (o.output === 'table') remarks({ ...views, vms })
}

const columns: readonly Column<VmView>[] = [
  { title: 'NAME', value: (v) => v.name },
  { title: 'STATE', value: (v) => v.state, paint: (v) => vmPaint(v.state) },
  { title: 'ADDRESS', value: (v) => v.addresses.join(' ') || '-' },
  { title: 'VCPU', value: (v) => (v.vcpus === undefined ? '-' : String(v.vcpus)), right: true },
  { title: 'MEMORY', value: (v) => (v.memory_bytes === undefined ? '-' : bytes(v.memory_bytes)), right: true },
  { title: 'DISK', value: (v) => diskText(v), right: true },
  { title: 'UPTIME', value: (v) => (v.uptime_ms === undefined ? '-' : duration(v.uptime_ms)), right: true },
  { title: 'HOST', value: (v) => v.host },
  { title: 'DETAIL', value: vmRemark },
]
const ownerColumn: Column<VmView> = {
  title: 'OWNER',
  value: (v) => v.owner,
  paint: (v) => (v.owner === 'foreign' ? 'dim' : undefined),
}

function diskText(v: VmView): string {
  const all = (v.disks ?? []).reduce((n, d) => n + d.size_bytes, 0)
  return all === 0 ? '-' : bytes(all)
}

/** How old the states are, and what differs, for people. */
function remarks(v: VmViews): void {
  const old = v.vms.filter((x) => x.seen.by !== 'libvirt')
  if (old.length > 0) {
    const oldest = old.map((x) => x.seen.at).sort()[0]!
    const who =
      old.length === v.vms.length ? 'These states are' : `The states of ${old.map((x) => x.name).join(', ')} are`
    const by = old.some((x) => x.seen.by === 'registry') ? 'from the registry' : 'what the agent saw'
    say(`${who} ${by}, up to ${age(oldest)} old.${v.unasked === undefined ? '' : ` ${v.unasked}`}`)
  } else if (v.unasked !== undefined) say(v.unasked)
  for (const x of v.vms) for (const d of x.drift) say(`! ${d.message}`)
  const left = v.orphans.length
  if (left > 0) say(`${left} leftover${left === 1 ? '' : 's'} of VMs: vmspool vm gc`)
}
