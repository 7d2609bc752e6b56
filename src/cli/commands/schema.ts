import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Command } from 'commander'
import { CliError, exitCodes } from '../errors.ts'
import { out } from '../output.ts'
import { packageRoot } from '../version.ts'

export default function define(): Command {
  return new Command('schema')
    .description(
      'Print the JSON Schema of a kind of manifest, of the configuration, or of a file that vmspool writes. Without a name: list them.',
    )
    .argument('[kind]', 'for example convert, command, config, status, result')
    .addHelpText(
      'after',
      `
Examples:
  vmspool schema                     the names there are
  vmspool schema convert > convert.schema.json
  vmspool schema status | jq .properties.state`,
    )
    .action(run)
}

const suffix = '.schema.json'

async function run(kind: string | undefined): Promise<void> {
  const folder = join(packageRoot(), 'schemas')
  const names = (await readdir(folder))
    .filter((n) => n.endsWith('.json'))
    .map((n) => n.replace(suffix, '').replace('.json', ''))
    .sort()
  if (kind === undefined) {
    for (const name of names) out(name)
    return
  }
  if (!names.includes(kind)) {
    const { nearest } = await import('../../text/nearest.ts')
    const near = nearest(kind, names)
    throw new CliError(
      exitCodes.usage,
      `There is no schema "${kind}"${near === undefined ? '' : ` (did you mean ${near}?)`}. There are: ${names.join(', ')}.`,
    )
  }
  const file = (await readdir(folder)).find((n) => n === `${kind}${suffix}` || n === `${kind}.json`)
  out(await readFile(join(folder, file!), 'utf8'))
}
