import { Command, Option } from 'commander'
import { reportError } from '../errors.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'
import { version } from '../version.ts'

interface Options extends SpoolOptions {
  view: 'jobs' | 'vms' | 'instances'
}

export default function define(): Command {
  return spoolOptions(new Command('tui'))
    .description(
      'Jobs, VMs, instances and logs on the whole terminal, live. ? shows the keys (docs/tui.md), q ends it; needs a terminal.',
    )
    .addOption(new Option('--view <view>', 'what to begin with').choices(['jobs', 'vms', 'instances']).default('jobs'))
    .addHelpText(
      'after',
      `
Keys:
  j k g G Ctrl+D Ctrl+U  move          Enter  details     l  log       /  search
  s  stop    Ctrl+K  kill    c  cancel    r  run again    R  retry     Tab f  filter    o  sort
  1 2 3  jobs, VMs, instances          i  other instance  p  pause     ?  all keys      q  quit

Examples:
  vmspool tui
  vmspool tui --instance vsphere
  vmspool tui --view instances
  NO_COLOR=1 vmspool tui`,
    )
    .action(run)
}

async function run(o: Options): Promise<void> {
  const { runTui } = await import('../../tui/index.ts')
  let code: number
  try {
    code = await runTui({ ...o, version: version() })
  } catch (error) {
    code = reportError(error)
  }
  // What still runs, such as a read from a network file system that hangs, must not keep the terminal.
  process.exit(code)
}
