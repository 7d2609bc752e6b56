import { Command } from 'commander'
import console_ from '../vm/console.ts'
import create from '../vm/create.ts'
import { deleteCommand, restartCommand, startCommand, stopCommand } from '../vm/change.ts'
import gc from '../vm/gc.ts'
import ip from '../vm/ip.ts'
import list from '../vm/list.ts'
import status from '../vm/status.ts'

export default function define(): Command {
  const command = new Command('vm')
    .description(
      'VMs on libvirt (docs/vms.md). What changes one is a job that an agent carries out: it survives restarts, and the same again does no harm. What shows one needs no agent.',
    )
    .addHelpText(
      'after',
      `
Examples:
  vmspool vm create web --template debian-12 --ssh-key ~/.ssh/id_ed25519.pub --wait
  vmspool vm list
  ssh debian@$(vmspool vm ip web --wait)
  vmspool vm console web                        Ctrl+] leaves it
  vmspool vm stop web --wait
  vmspool vm delete web --wait

ghostctl's calls work as they are: vm list, vm status ID, vm start ID, vm stop ID --force, vm delete ID,
vm create --name N --vcpu 2 --ram 4 --disk 50 --template T; --ghost prints its tables.`,
    )
  const all = [create, list, status, startCommand, stopCommand, restartCommand, deleteCommand, console_, ip, gc]
  for (const sub of all) command.addCommand(sub())
  return command
}
