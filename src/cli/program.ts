/**
 * The command line. Only the command that was asked for is imported: `vmspool status` must not pay for the
 * YAML parser and the schemas of `vmspool check`.
 */
import { Command, CommanderError } from 'commander'
import { exitCodes, reportError } from './errors.ts'
import { fromHyperctl } from './hyperctl.ts'
import { table } from './commands.ts'
import { version } from './version.ts'

const examples = `
Examples:
  vmspool agent default                         run an agent in the foreground
  vmspool submit export/artifact-manifest.json --wait
  vmspool convert disk.vmdk -o /var/lib/images  convert one disk, with or without an agent
  vmspool list --state running                  what is being worked on
  vmspool logs -f web-01                        follow a job's log until it ends
  vmspool doctor                                is this host ready, and if not, what to do

Environment:
  VMSPOOL_ROOT      the folder of all spools (default: /var/lib/vmspool for root,
                    $XDG_DATA_HOME/vmspool for users)
  VMSPOOL_INSTANCE  the instance to use (default: default)
  NO_COLOR          no colours

Exit codes: 0 ok, 1 the job failed, 2 usage, 65 bad manifest, 69 no agent, 73 cannot create,
74 I/O error, 75 try again, 77 permission, 78 configuration, 124 wait timed out, 130 interrupted.`

export async function main(typed: string[]): Promise<number> {
  const program = skeleton()
  // `vmspool help list` is what many type for `vmspool list --help`.
  const args = typed[0] === 'help' ? [...typed.slice(1, 2), '--help'] : fromHyperctl(typed)
  try {
    const name = args.find((a) => !a.startsWith('-'))
    const entry = table.find((c) => c.name === name)
    for (const c of table) {
      const command = c === entry ? (await c.load()).default() : new Command(c.name)
      command.name(c.name).summary(c.summary).helpGroup(c.group)
      if (c === entry) command.description(command.description() || c.summary)
      program.addCommand(inherit(command))
    }
    await program.parseAsync(args, { from: 'user' })
    return typeof process.exitCode === 'number' ? process.exitCode : exitCodes.ok
  } catch (error) {
    if (error instanceof CommanderError) {
      // commander has printed its own text already; asking for help or the version is not a mistake.
      return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage
    }
    return reportError(error)
  }
}

function skeleton(): Command {
  const program = new Command('vmspool')
    .description('A work queue for virtual machines in a folder: drop a manifest, get a verified disk.')
    .version(version(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print help; `vmspool COMMAND --help` shows options and examples')
    .addHelpText('after', examples)
    .showHelpAfterError('Run `vmspool --help` for the commands, `vmspool COMMAND --help` for one command.')
  return inherit(program)
}

/** The settings that commander does not hand down by itself to commands added with addCommand. */
function inherit(command: Command): Command {
  command.exitOverride().helpCommand(false)
  command.configureOutput({ outputError: (text, write) => write(sentence(command, text)) })
  if (command.parent === null && command.name() !== 'vmspool') {
    command.helpOption('-h, --help', 'print this help')
    command.showHelpAfterError(`Run \`vmspool ${command.name()} --help\` for its options and examples.`)
  }
  for (const sub of command.commands) inherit(sub)
  return command
}

/** commander's "error: unknown option '--x'" as a sentence that names the program. */
function sentence(command: Command, text: string): string {
  if (!text.startsWith('error: ')) return text
  const path = []
  for (let c: Command | null = command; c !== null; c = c.parent) path.unshift(c.name())
  const said = text.slice('error: '.length).replace(/\n\(Did you mean (.*)\?\)/, ' (did you mean $1?)')
  return `${path.join(' ')}: ${said.trimEnd().replace(/([^.?)])$/, '$1.')}\n`
}
