import { Command } from 'commander'
import { diagnosticText } from '../diagnostics.ts'
import { type Format, formatOption, printRows, printValue, say, wantsColour } from '../output.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'

interface Options extends SpoolOptions {
  output: Format
}

export default function define(): Command {
  return spoolOptions(new Command('config'))
    .description(
      'Print the configuration in force and where each value comes from. Order: defaults, /etc/vmspool/agent.yaml, /etc/vmspool/agent@NAME.yaml, --config FILE, VMSPOOL_* variables, options.',
    )
    .argument('[instance]', 'the instance (as --instance)')
    .addOption(formatOption(['table', 'json', 'yaml', 'name']))
    .addHelpText(
      'after',
      `
Examples:
  vmspool config
  vmspool config vsphere
  vmspool config --config ./agent.yaml -o yaml
  vmspool config -o json | jq .config.convert

\`-o yaml\` and \`-o json\` print {config, origin, files}; \`-o name\` prints the names of the keys.
Exit code 78 when the configuration has errors; all of them are named.`,
    )
    .action(run)
}

async function run(name: string | undefined, o: Options): Promise<void> {
  const { loadConfig, secret } = await import('../../config/index.ts')
  const { defaultInstance } = await import('../../client/place.ts')
  const instance = name ?? o.instance ?? (process.env.VMSPOOL_INSTANCE || defaultInstance)
  const {
    config: real,
    origin,
    files,
    warnings,
  } = loadConfig({ instance, root: o.root, configFile: o.config, env: process.env })
  for (const w of warnings) say(diagnosticText(w.file, w, wantsColour(process.stderr)))
  const config = structuredClone(real)
  for (const key of secret) hide(config, key)
  if (o.output === 'json' || o.output === 'yaml') return printValue(o.output, { config, origin, files })
  const rows = Object.keys(origin)
    .sort()
    .map((key) => ({ key, value: valueAt(config, key), origin: origin[key]! }))
  await printRows(o.output, rows, {
    columns: [
      { title: 'KEY', value: (r) => r.key },
      {
        title: 'VALUE',
        value: (r) => (r.value === undefined ? '-' : typeof r.value === 'string' ? r.value : JSON.stringify(r.value)),
      },
      { title: 'FROM', value: (r) => r.origin },
    ],
    name: (r) => r.key,
    empty: 'The configuration is empty.',
  })
  if (o.output === 'table') say(files.length === 0 ? 'No configuration file was read.' : `Read: ${files.join(', ')}`)
}

/** A password is in force, but it is nobody's business what it is. */
function hide(root: unknown, path: string): void {
  const steps = path.split('.')
  const last = steps.pop()!
  const holder = steps.reduce<unknown>((at, step) => (at as Record<string, unknown> | undefined)?.[step], root)
  if (typeof holder === 'object' && holder !== null && (holder as Record<string, unknown>)[last] !== undefined) {
    ;(holder as Record<string, unknown>)[last] = '(hidden)'
  }
}

function valueAt(root: unknown, path: string): unknown {
  let value = root
  for (const part of path.split('.')) {
    if (typeof value !== 'object' || value === null) return undefined
    value = (value as Record<string, unknown>)[part]
  }
  return value
}
