import { dirname, resolve } from 'node:path'
import { Command } from 'commander'
import type { BatchManifest, Diagnostic } from '../../manifest/index.ts'
import { diagnosticText } from '../diagnostics.ts'
import { exitCodes, explain } from '../errors.ts'
import { type Format, formatOption, out, printValue, say, wantsColour } from '../output.ts'

interface Options {
  output: Format
  strict?: boolean
}

interface Checked {
  file: string
  valid: boolean
  kind?: string
  name?: string
  diagnostics: readonly Diagnostic[]
}

export default function define(): Command {
  return new Command('check')
    .description(
      'Check manifests the way a compiler checks sources: every error at once, with its place, the value, what is allowed and what was probably meant. Nothing is submitted.',
    )
    .argument('<file...>', 'manifests (JSON or YAML); - reads standard input')
    .option('--strict', 'warnings count as errors')
    .addOption(formatOption(['table', 'json', 'yaml', 'name']))
    .addHelpText(
      'after',
      `
Examples:
  vmspool check export/artifact-manifest.json
  vmspool check *.yaml -o json
  vmspool check --strict - < manifest.json

Of a batch the manifests that it names are checked as well, as far as they can be read from here.
Exit code 0 when all are valid, 65 when one is not. \`-o name\` prints the names of the valid files.`,
    )
    .action(run)
}

async function run(files: string[], o: Options): Promise<void> {
  const { answerNameOf, maxManifestBytes, parseManifest } = await import('../../manifest/index.ts')
  const { readManifestFile } = await import('../../client/manifest-files.ts')
  const checked: Checked[] = []
  let unreadable = 0
  for (const file of files) {
    let bytes: Uint8Array
    try {
      bytes = file === '-' ? await readInput(maxManifestBytes) : await readManifestFile(file)
    } catch (error) {
      const { message, exitCode } = explain(error)
      say(`vmspool check: ${message}`)
      unreadable ||= exitCode
      continue
    }
    const shown = file === '-' ? '<stdin>' : file
    const outcome = parseManifest(bytes, {
      fileName: file === '-' ? guessName(bytes) : file,
      baseDir: file === '-' ? process.cwd() : dirname(resolve(file)),
    })
    if (outcome.state === 'complete') {
      const name = answerNameOf(outcome.manifest)
      checked.push({
        file: shown,
        valid: !(o.strict && outcome.diagnostics.length > 0),
        kind: outcome.manifest.kind,
        ...(name === undefined ? {} : { name }),
        diagnostics: outcome.diagnostics,
      })
      if (outcome.manifest.kind === 'batch') checked.push(...(await checkedVms(outcome.manifest, o.strict === true)))
    } else {
      checked.push({ file: shown, valid: false, diagnostics: outcome.diagnostics })
    }
  }
  if (o.output === 'json' || o.output === 'yaml') await printValue(o.output, checked)
  else if (o.output === 'name') for (const c of checked.filter((c) => c.valid)) out(c.file)
  else printTable(checked)
  const bad = checked.some((c) => !c.valid)
  process.exitCode = bad ? exitCodes.badManifest : unreadable
}

/** The manifests that a batch names: those in which something was found. */
async function checkedVms(batch: BatchManifest, strict: boolean): Promise<Checked[]> {
  const { checkVms } = await import('../../client/batch-files.ts')
  return (await checkVms(batch)).map(({ file, diagnostics }) => ({
    file,
    valid: !diagnostics.some((d) => strict || d.severity === 'error'),
    diagnostics,
  }))
}

/** Standard input, at most one byte more than a manifest may have. (Not /dev/stdin: it cannot be opened when it is a socket.) */
async function readInput(max: number): Promise<Uint8Array> {
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of process.stdin) {
    chunks.push(chunk as Buffer)
    length += (chunk as Buffer).length
    if (length > max) break
  }
  return Buffer.concat(chunks).subarray(0, max + 1)
}

/** Standard input has no name to tell YAML by; a JSON manifest is an object and begins like one. */
function guessName(bytes: Uint8Array): string {
  const start = Buffer.from(bytes.subarray(0, 4096))
    .toString('utf8')
    .replace(/^\ufeff/, '')
    .trimStart()
  return start === '' || start.startsWith('{') || start.startsWith('[') ? 'stdin.json' : 'stdin.yaml'
}

function printTable(checked: readonly Checked[]): void {
  const colour = wantsColour(process.stdout)
  for (const c of checked) {
    for (const d of c.diagnostics) out(diagnosticText(c.file, d, colour))
    const errors = c.diagnostics.filter((d) => d.severity === 'error').length
    const warnings = c.diagnostics.length - errors
    const counts = [count(errors, 'error'), count(warnings, 'warning')].filter((t) => t !== '').join(', ')
    if (c.valid)
      out(
        `${c.file}: valid${c.kind === undefined ? '' : `, kind ${c.kind}`}${c.name === undefined ? '' : `, answered as "${c.name}"`}${counts ? ` (${counts})` : ''}`,
      )
    else out(`${c.file}: not valid: ${counts || 'it is incomplete'}`)
  }
}

function count(n: number, word: string): string {
  return n === 0 ? '' : `${n} ${word}${n === 1 ? '' : 's'}`
}
