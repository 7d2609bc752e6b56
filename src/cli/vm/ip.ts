import { setTimeout as sleep } from 'node:timers/promises'
import { Command } from 'commander'
import type { VmView } from '../../client/vms.ts'
import { CliError, exitCodes } from '../errors.ts'
import { out, plain } from '../output.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'
import { duration, parseDuration } from '../units.ts'
import { interruptSignal } from '../waiting.ts'

interface Options extends SpoolOptions {
  wait?: boolean
  timeout?: number
  all?: boolean
}

const LOOK_MS = 500

export default function define(): Command {
  return spoolOptions(new Command('ip').summary('print the address of a VM'))
    .description('Print the address of a VM and nothing else, for scripts: the first one, IPv4 before IPv6.')
    .argument('<vm>', 'name or uuid')
    .option('-a, --all', 'all of its addresses, one a line')
    .option('-w, --wait', 'wait until it has one')
    .option('--timeout <duration>', 'with --wait: give up after this long, exit code 124', parseDuration)
    .addHelpText(
      'after',
      `
Examples:
  ssh debian@$(vmspool vm ip web)
  vmspool vm ip web --wait --timeout 2m

Exit codes: 0 it has an address, 1 it has none (with --wait: it does not run), 2 no such VM, 124 none in time.`,
    )
    .action(run)
}

async function run(which: string, o: Options): Promise<void> {
  const { locate } = await import('../../client/place.ts')
  const { findVm, vmsOf } = await import('../../client/vms.ts')
  const place = await locate(o)
  const interrupt = interruptSignal()
  const began = performance.now()
  try {
    for (;;) {
      const { vms } = await vmsOf(place)
      const vm = findVm(place, vms, which)
      if (vm.addresses.length > 0) {
        for (const a of o.all ? vm.addresses : vm.addresses.slice(0, 1)) out(plain(a))
        return
      }
      // one that is being made or started will run; another one has nothing to wait for
      if (!o.wait || (vm.state !== 'running' && vm.doing === undefined && vm.desired !== 'running')) throw none(vm)
      if (o.timeout !== undefined && performance.now() - began >= o.timeout)
        throw new CliError(exitCodes.timedOut, `The VM "${vm.name}" had no address within ${duration(o.timeout)}.`)
      await sleep(LOOK_MS, undefined, { signal: interrupt.signal })
    }
  } catch (error) {
    if (interrupt.signal.aborted) throw new CliError(exitCodes.interrupted, 'The wait was interrupted.')
    throw error
  } finally {
    interrupt.stop()
  }
}

function none(vm: VmView): CliError {
  return new CliError(
    exitCodes.jobFailed,
    vm.state === 'running'
      ? `The VM "${vm.name}" runs, and no address of it is known (yet): vmspool vm ip ${vm.name} --wait.`
      : `The VM "${vm.name}" is ${vm.state} and has no address. Start it: vmspool vm start ${vm.name} --wait.`,
  )
}
