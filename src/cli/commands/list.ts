import { Command, Option } from 'commander'
import { jobStates } from '../../client/status.ts'
import { ghostWords, list } from '../list-jobs.ts'
import { formatOption } from '../output.ts'
import { spoolOptions } from '../spool-options.ts'
import { parseCount } from '../units.ts'

export { columns } from '../list-jobs.ts'

export default function define(): Command {
  return spoolOptions(new Command('list'))
    .description('List jobs, the newest first. `-o json` prints an array of status objects (docs/output.md).')
    .addOption(
      new Option('-s, --state <state...>', "only jobs in these states, ours or Ghost's").choices([
        ...jobStates,
        ...ghostWords,
      ]),
    )
    .addOption(new Option('--status <state...>', 'the same').choices([...jobStates, ...ghostWords]).conflicts('state'))
    .option('--kind <kind>', 'only jobs of this kind')
    .option('--name <name>', 'only jobs with this answer name')
    .option('--batch <job>', 'only the VMs of this batch')
    .option('-n, --limit <count>', 'at most this many; 0 for all', parseCount, 50)
    .option('--ghost', "Ghost's columns: Task ID, PID, Status, Started, Command, Directory")
    .addOption(formatOption())
    .addHelpText(
      'after',
      `
Examples:
  vmspool list
  vmspool list --state running retrying
  vmspool list --kind command --status exited killed --ghost
  vmspool list --batch night --state failed
  vmspool list --state failed -o name | xargs vmspool retry
  vmspool list -n 0 -o json | jq '.[] | select(.priority == 0)'`,
    )
    .action(list)
}
