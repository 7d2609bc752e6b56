/** The command line as data, from the very definitions that the program parses with. */
import type { Command, Option } from 'commander'
import { table } from '../../src/cli/commands.ts'

export interface CommandText {
  name: string
  summary: string
  description: string
  /** without the program's name: "daemon [options] [operation]" */
  usage: string
  arguments: { name: string; variadic: boolean; choices: readonly string[]; description: string }[]
  options: readonly Option[]
  /** what --help prints below the options: examples, exit codes */
  more: string
  subcommands: { name: string; summary: string }[]
}

export async function commandTexts(): Promise<CommandText[]> {
  return Promise.all(
    table.map(async (entry) => ({ ...textOf((await entry.load()).default()), summary: entry.summary })),
  )
}

function textOf(c: Command): Omit<CommandText, 'summary'> {
  let said = ''
  c.helpOption('-h, --help', 'print this help').helpCommand(false)
  c.configureOutput({ writeOut: (text) => (said += text), getOutHelpWidth: () => 100 })
  c.outputHelp()
  const help = c.createHelp()
  return {
    name: c.name(),
    description: c.description(),
    usage: `${c.name()} ${c.usage()}`.trim(),
    arguments: c.registeredArguments.map((a) => ({
      name: a.name(),
      variadic: a.variadic,
      choices: a.argChoices ?? [],
      description: a.description,
    })),
    options: help.visibleOptions(c),
    more: said.slice(said.indexOf(c.helpInformation()) + c.helpInformation().length).trim(),
    subcommands: c.commands.map((s) => ({ name: s.name(), summary: s.summary() || s.description() })),
  }
}
