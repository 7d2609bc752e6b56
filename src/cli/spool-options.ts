/** The options that say which spool a command is about. */
import type { Command } from 'commander'

export interface SpoolOptions {
  instance?: string
  root?: string
  config?: string
}

export function spoolOptions(command: Command): Command {
  return command
    .option('--instance <name>', 'the instance (default: $VMSPOOL_INSTANCE, else "default")')
    .option('--root <dir>', 'the folder of all spools (default: $VMSPOOL_ROOT, else as in the configuration)')
    .option('--config <file>', 'read this configuration file too')
}
