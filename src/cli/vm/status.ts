import { Command } from 'commander'
import type { VmView } from '../../client/vms.ts'
import { type Format, formatOption, out, painted, plain, printValue, wantsColour } from '../output.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'
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
  out(o.ghost ? ghostStatus(vm) : await vmText(vm, wantsColour(process.stdout)))
}

/** One "Label: value" line for each thing there is to know. */
async function vmText(v: VmView, colour: boolean): Promise<string> {
  const { vmPaint, vmRows } = await import('../../client/vm-describe.ts')
  const rows = vmRows(v).map(([k, value]) => [plain(k), plain(value)] as const)
  const wide = Math.max(...rows.map(([k]) => k.length)) + 3
  const paint = colour ? vmPaint(v.state) : undefined
  return rows
    .map(([k, value]) => {
      const shown = k === 'State' && paint ? value.replace(v.state, painted(paint, v.state)) : value
      return `${`${k}:`.padEnd(wide)}${shown}`
    })
    .join('\n')
}
