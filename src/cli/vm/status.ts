import { Command } from 'commander'
import type { VmView } from '../../client/vms.ts'
import { type Format, formatOption, out, painted, plain, printValue, wantsColour } from '../output.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'
import { age, bytes, duration } from '../units.ts'
import { ghostStatus } from './ghost.ts'

interface Options extends SpoolOptions {
  live: boolean
  ghost?: boolean
  output: Format
}

export default function define(): Command {
  return spoolOptions(new Command('status').summary('show one VM'))
    .description('Show one VM: what it is, what it should be and is, what is done with it, what it uses, what differs.')
    .argument('<vm>', 'name or uuid; NAME@HOST where several hosts have one')
    .option('--no-live', 'do not ask libvirt')
    .option('--ghost', 'in the words of ghostctl')
    .addOption(formatOption())
    .addHelpText(
      'after',
      `
Examples:
  vmspool vm status web
  vmspool vm status web -o json | jq -r .state

Processor time is measured for half a second where this user may ask libvirt, else it is what the agent saw.`,
    )
    .action(run)
}

async function run(which: string, o: Options): Promise<void> {
  const { locate } = await import('../../client/place.ts')
  const { findVm, vmsOf } = await import('../../client/vms.ts')
  const place = await locate(o)
  const { vms } = await vmsOf(place, { live: o.live ? 'usage' : false, all: o.live })
  const vm = findVm(place, vms, which)
  if (o.output === 'json' || o.output === 'yaml') return printValue(o.output, vm)
  if (o.output === 'name') return out(vm.name)
  out(o.ghost ? ghostStatus(vm) : vmText(vm, wantsColour(process.stdout)))
}

/** One "Label: value" line for each thing there is to know. */
function vmText(v: VmView, colour: boolean): string {
  const state = colour && v.state === 'running' ? painted('green', v.state) : v.state
  const why = v.state_reason === undefined || v.state_reason === 'unknown' ? '' : ` (${v.state_reason})`
  const seen = {
    libvirt: 'libvirt says so now',
    agent: `as the agent saw it ${age(v.seen.at)} ago`,
    registry: `as the registry has it, ${age(v.seen.at)} old`,
  }[v.seen.by]
  const rows: [string, string | undefined][] = [
    ['Name', v.name],
    ['UUID', v.uuid],
    ['State', `${state}${why}${v.state_at ? ` since ${v.state_at}` : ''}; ${seen}`],
    ['Should be', v.desired],
    [
      'Doing',
      v.doing && `${v.doing.action}, phase ${v.doing.phase}, since ${v.doing.since}: vmspool status ${v.doing.job}`,
    ],
    [
      'Last action',
      v.last &&
        `${v.last.action} ${v.last.outcome} at ${v.last.at} (job ${v.last.job})${v.last.message ? `: ${v.last.message}` : ''}`,
    ],
    ['Addresses', v.addresses.join(', ')],
    ['vCPU', v.vcpus === undefined ? undefined : String(v.vcpus)],
    ['Memory', v.memory_bytes === undefined ? undefined : bytes(v.memory_bytes)],
    ['Uptime', v.uptime_ms === undefined ? undefined : duration(v.uptime_ms)],
    ['CPU', v.cpu_percent === undefined ? undefined : `${v.cpu_percent.toFixed(1)} % of one processor`],
    ['Memory used', v.memory_percent === undefined ? undefined : `${v.memory_percent.toFixed(1)} %`],
    ...(v.disks ?? []).map((d): [string, string] => [
      `Disk ${d.id}`,
      `${bytes(d.size_bytes)} ${d.format}, ${d.path}${d.base ? ` on top of ${d.base.path}` : ''}`,
    ]),
    ...(v.nics ?? []).map((n, i): [string, string] => [
      `Card ${i}`,
      `${n.network ?? (n.bridge === undefined ? '?' : `bridge:${n.bridge}`)}, ${n.mac}, ${n.model}`,
    ]),
    ['Firmware', v.firmware && `${v.firmware}, machine ${v.machine}, ${v.accelerator}`],
    ['Autostart', v.autostart === undefined ? undefined : v.autostart ? 'yes' : 'no'],
    ['Made from', v.template ?? (v.from_job === undefined ? undefined : `job ${v.from_job}`)],
    ['Made by', v.origin],
    ['Host', `${v.host}, ${v.uri}`],
    ['Seed', v.seed],
    ['Created', v.created_at],
    ...Object.entries(v.metadata ?? {}).map(([k, value]): [string, string] => [k, value]),
  ]
  const given = rows.filter((r): r is [string, string] => r[1] !== undefined && r[1] !== '')
  const wide = Math.max(...given.map(([k]) => k.length)) + 3
  const lines = given.map(([k, value]) => `${`${plain(k)}:`.padEnd(wide)}${k === 'State' ? value : plain(value)}`)
  if (v.seen.why !== undefined) lines.push('', plain(v.seen.why))
  for (const d of v.drift) lines.push(`! ${plain(d.message)}`)
  return lines.join('\n')
}
