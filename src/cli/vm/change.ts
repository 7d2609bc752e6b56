/** start, stop, restart, delete: each VM that is named is a job. */
import { Command } from 'commander'
import type { Place } from '../../client/place.ts'
import type { VmAction, VmFields } from '../../client/vm-manifest.ts'
import type { VmView } from '../../client/vms.ts'
import { confirmed } from '../confirm.ts'
import { CliError, exitCodes } from '../errors.ts'
import { type Format, formatOption } from '../output.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'
import { bytes, parseDuration } from '../units.ts'
import { type WaitFlags, waitFlags } from '../waiting.ts'
import { checked, submitVmJobs, type VmJob } from './submit.ts'

interface Options extends SpoolOptions, WaitFlags {
  wait?: boolean
  dryRun?: boolean
  ghost?: boolean
  output: Format
  force?: boolean
  grace?: number
  waitAddress?: string | boolean
  keepDisks?: boolean
  yes?: boolean
}

function base(action: VmAction, summary: string, description: string, examples: string): Command {
  const command = spoolOptions(new Command(action)).summary(summary).description(description)
  return waitFlags(command)
    .argument('<vm...>', 'names or uuids; NAME@HOST where several hosts have one')
    .option('-w, --wait', 'wait until it is done; the exit code is the outcome')
    .option('-n, --dry-run', 'print the manifests, and submit nothing')
    .option('--ghost', 'print what ghostctl prints')
    .addOption(formatOption())
    .addHelpText('after', `\nExamples:\n${examples}`)
    .action((vms: string[], o: Options) => run(action, vms, o))
}

function stopping(command: Command): Command {
  return command
    .option('-f, --force', 'pull the plug, at once')
    .option('--grace <duration>', 'how long the guest may take before the plug is pulled', parseDuration)
}

function addressed(command: Command): Command {
  return command
    .option('--wait-address <duration>', 'how long the job waits for an address (default: as configured)')
    .option('--no-wait-address', 'do not wait for one')
}

export const startCommand = (): Command =>
  addressed(
    base(
      'start',
      'start VMs',
      'Start VMs. One that runs already is fine.',
      '  vmspool vm start web\n  vmspool vm start web db --wait --timeout 5m',
    ),
  )

export const stopCommand = (): Command =>
  stopping(
    base(
      'stop',
      'stop VMs',
      'Stop VMs: the guest is asked, again and again, until its grace is over; then the plug is pulled. One that is off already is fine.',
      '  vmspool vm stop web --wait\n  vmspool vm stop web --grace 10m\n  vmspool vm stop web --force',
    ),
  )

export const restartCommand = (): Command =>
  addressed(
    stopping(
      base(
        'restart',
        'stop VMs and start them again',
        'Stop VMs and start them again.',
        '  vmspool vm restart web --wait\n  vmspool vm restart web --force',
      ),
    ),
  )

export const deleteCommand = (): Command =>
  stopping(
    base(
      'delete',
      'delete VMs with their disks',
      'Delete VMs with their disks: stop, undefine, remove. Asks on a terminal, unless --yes.',
      '  vmspool vm delete web --wait\n  vmspool vm delete web --keep-disks --yes\n  vmspool vm list --state stopped -o name | xargs vmspool vm delete --yes',
    ),
  )
    .option('--keep-disks', 'leave the disks where they are')
    .option('-y, --yes', 'do not ask')

async function run(action: VmAction, which: readonly string[], o: Options): Promise<void> {
  const { locate, requireSpool } = await import('../../client/place.ts')
  const { hostOf, vmJob } = await import('../../client/vm-manifest.ts')
  const place = await locate(o)
  if (!o.dryRun) await requireSpool(place, 'submit')
  const vms = await meant(place, which)
  if (action === 'delete' && !o.yes && !o.dryRun && !(await confirmed(question(vms, o.keepDisks === true))))
    throw new CliError(exitCodes.interrupted, 'Nothing was deleted.')
  const jobs: VmJob[] = []
  for (const vm of vms) {
    const hosts = await hostOf(place, vm)
    const fields: VmFields = {
      ...(o.force ? { force: true } : {}),
      ...(o.grace === undefined ? {} : { grace: `${o.grace}ms` }),
      ...(o.keepDisks ? { keep_disks: true } : {}),
      ...(o.waitAddress === undefined || o.waitAddress === true ? {} : { wait_for_address: o.waitAddress }),
      ...(hosts === undefined ? {} : { hosts }),
    }
    jobs.push({ name: vm.name, prepared: await checked(() => vmJob(action, vm.name, fields)) })
  }
  process.exitCode = await submitVmJobs(place, jobs, o)
}

/** Each once. Foreign domains are looked at too, so that it can be said that they are that. */
async function meant(place: Place, which: readonly string[]): Promise<VmView[]> {
  const { findVm, vmsOf } = await import('../../client/vms.ts')
  const { vms } = await vmsOf(place, { live: false })
  const found = new Map<string, VmView>()
  for (const word of which) {
    let vm: VmView
    try {
      vm = findVm(place, vms, word)
    } catch (error) {
      if (vms.some((v) => v.name === word)) throw error
      // found nowhere: is it somebody else's?
      vm = findVm(place, (await vmsOf(place, { all: true })).vms, word)
    }
    found.set(`${vm.name}@${vm.host}`, vm)
  }
  return [...found.values()]
}

function question(vms: readonly VmView[], keep: boolean): string {
  const what = vms.map((v) => {
    const disks = v.disks ?? []
    const size = disks.reduce((n, d) => n + d.size_bytes, 0)
    const with_ =
      keep || disks.length === 0
        ? ''
        : ` with ${disks.length === 1 ? 'its disk' : `its ${disks.length} disks`} of ${bytes(size)}`
    return `${v.name} (${v.state})${with_}`
  })
  return `Delete ${what.join(', ')}?`
}
