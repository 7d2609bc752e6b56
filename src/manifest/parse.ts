import type { z } from 'zod'
import { type Diagnostic, pathText, printable, shortValue, valueAt } from '../text/diagnostic.ts'
import { readJson } from '../text/json.ts'
import { defaultLimits, type Limits, lineCounter, offsetOf, type Reading } from '../text/source.ts'
import { decodeUtf8 } from '../text/utf8.ts'
import { readYaml } from '../text/yaml.ts'
import { dialectOf } from './dialect.ts'
import type { Dialect } from './dialects/parts.ts'
import { kinds, type Manifest, type ManifestKind } from './kinds/index.ts'
import { beyondBatch } from './beyond-batch.ts'
import { beyondSchema } from './beyond-schema.ts'
import { isLenient } from './lenient.ts'
import { type ManifestDefaults, normalise } from './normalise.ts'
import { prepare, type Say } from './prepare.ts'
import { batchSuffix, safeName } from './safe-name.ts'
import { notKept, takeSecrets, withoutSecrets } from './secrets.ts'
import { sentenceOf } from './sentences.ts'

/** A manifest is at most 1 MiB (DESIGN section 3). */
export const maxManifestBytes = 1 << 20
const mostDiagnostics = 100
/** A batch of ten thousand VMs has some fifty thousand values; YAML, which is slower to read, keeps the smaller limit. */
export const jsonLimits: Limits = { ...defaultLimits, values: 120_000 }

export interface ParseOptions {
  /** The name of the drop: `.yaml` and `.yml` are YAML, everything else JSON. */
  fileName: string
  /** What fills in a partial `retry` block and a missing priority: the agent's configuration. */
  defaults?: ManifestDefaults
  /** Where a relative `local_path` starts from (`vmspool check FILE`, `convert`, `submit`). A drop has no folder, so without this one it is refused. */
  baseDir?: string
  /**
   * The folder into which the manifest was dropped. Relative paths of batches and of the other dialects start from it when there is no
   * `baseDir`, as they did in hyper2kvm; those of a `convert` manifest do not.
   */
  dropDir?: string
  /** Largest manifest in bytes; default and most 1 MiB. */
  maxBytes?: number
}

export type ParseOutcome =
  /** Valid. The diagnostics are warnings. */
  | {
      state: 'complete'
      manifest: Manifest
      diagnostics: Diagnostic[]
      format: 'json' | 'yaml'
      /** It was translated, or took its name from the file's: as written it would mean something else elsewhere. */
      rewritten?: true
    }
  /** Wrong only in that it ends too early, or empty: it may still be being written. */
  | { state: 'incomplete'; diagnostics: Diagnostic[]; keep?: string }
  /** Wrong, whatever may follow. `partial` is what could be read of who asked for what; `answer` is a safe name. */
  | {
      state: 'invalid'
      diagnostics: Diagnostic[]
      partial?: { answer?: string; kind?: string }
      /** the file holds secrets: this is what may be kept of it */
      keep?: string
    }

/**
 * Reads and checks one manifest: pure, never throws, in time and memory bounded by its size. All errors are reported at
 * once, each with path, value, what is allowed, what was probably meant, line and column.
 *
 * A proper prefix of a JSON object is always `incomplete`; a JSON error before the end of the input is `invalid` at once.
 */
export function parseManifest(bytes: Uint8Array, o: ParseOptions): ParseOutcome {
  try {
    return parse(bytes, o)
  } catch (error) {
    // Not reachable as far as fuzzing shows; an agent must survive a mistake here all the same.
    const message = `The manifest could not be checked: ${error instanceof Error ? error.message : String(error)}. Please report this.`
    return { state: 'invalid', diagnostics: [{ severity: 'error', path: '', message }] }
  }
}

function parse(bytes: Uint8Array, o: ParseOptions): ParseOutcome {
  const limit = Math.min(o.maxBytes ?? maxManifestBytes, maxManifestBytes)
  if (bytes.length > limit)
    return invalid([
      {
        severity: 'error',
        path: '',
        message: `The manifest has ${bytes.length} bytes; at most ${limit} are read. Is this a disk under a manifest's name?`,
      },
    ])
  const format = /\.ya?ml$/i.test(o.fileName) ? 'yaml' : 'json'
  const decoded = decodeUtf8(bytes)
  const locate = lineCounter(decoded.text)
  const at = (offset: number | undefined) => (offset === undefined ? {} : locate(offset))
  if (decoded.state === 'invalid') {
    const reading = decoded.text === '' ? undefined : format === 'json' ? readJson(decoded.text, jsonLimits) : undefined
    // A JSON text that is wrong before the bad byte is better explained by that.
    if (reading?.state === 'invalid') return unread(fromSyntax(reading, at), bytes)
    const message = decoded.message
    return unread(invalid([{ severity: 'error', path: '', message, ...at(decoded.text.length) }]), bytes)
  }
  const reading = format === 'json' ? readJson(decoded.text, jsonLimits) : readYaml(decoded.text)
  if (reading.state !== 'complete') return unread(fromSyntax(reading, at), bytes)
  if (decoded.state === 'cut')
    return unread(
      {
        state: format === 'json' ? 'invalid' : 'incomplete',
        diagnostics: [
          {
            severity: 'error',
            path: '',
            message: 'The file ends inside a UTF-8 character.',
            ...at(decoded.text.length),
          },
        ],
      },
      bytes,
    )
  return check(reading, o, format, at)
}

/** Of what could not be read nobody knows what is a value and what is not. */
function unread(outcome: Exclude<ParseOutcome, { state: 'complete' }>, bytes: Uint8Array): ParseOutcome {
  const keep = notKept(Buffer.from(bytes).toString('utf8'))
  return keep === undefined ? outcome : { ...outcome, keep }
}

type At = (offset: number | undefined) => { line?: number; column?: number }

function fromSyntax(
  reading: Exclude<Reading, { state: 'complete' }>,
  at: At,
): Exclude<ParseOutcome, { state: 'complete' }> {
  const diagnostics: Diagnostic[] = [
    { severity: 'error', path: '', message: withoutSecrets(printable(reading.message)), ...at(reading.offset) },
  ]
  if (reading.state === 'incomplete') return { state: 'incomplete', diagnostics }
  return invalid(diagnostics, reading.partial)
}

function check(
  reading: Reading & { state: 'complete' },
  o: ParseOptions,
  format: 'json' | 'yaml',
  at: At,
): ParseOutcome {
  const { value: root, places, problems } = reading
  const diagnostics: Diagnostic[] = problems.map((p) => ({
    severity: p.severity,
    path: pathText(p.path),
    message: p.message,
    ...at(p.offset),
  }))
  // Past a limit parts of the data are missing; what a check would say about them is noise.
  if (problems.some((p) => p.severity === 'error')) return invalid(diagnostics, root)

  const say: Say = (severity, path, message, more) => {
    const { at: part, allowed, suggestion } = more ?? {}
    const value = part === 'key' ? undefined : shortValue(valueAt(root, path))
    diagnostics.push({
      severity,
      path: pathText(path),
      message,
      ...(value !== undefined && { value }),
      ...(allowed && { allowed }),
      ...(suggestion !== undefined && { suggestion }),
      ...at(offsetOf(root, places, path, part)),
    })
  }

  // Before anything else is said of it: a value that is quoted anywhere would be kept.
  const secrets = takeSecrets(root, say)
  const outcome = checkAll(reading, o, format, diagnostics, say)
  return secrets && outcome.state === 'invalid' ? { ...outcome, keep: `${JSON.stringify(root, null, 2)}\n` } : outcome
}

function checkAll(
  reading: Reading & { state: 'complete' },
  o: ParseOptions,
  format: 'json' | 'yaml',
  diagnostics: Diagnostic[],
  say: Say,
): ParseOutcome {
  const { value: root } = reading
  const found = dialectOf(root)
  if ('message' in found) {
    say('error', found.path, found.message, found)
    return invalid(diagnostics, root)
  }
  const how: Checking = { root, o, folder: o.baseDir ?? o.dropDir, written: reading.written, diagnostics, say }
  const checked = 'dialect' in found ? translated(found.dialect, how) : canonical(found.kind, how)
  if ('state' in checked) return checked
  const { manifest, rewritten } = checked
  return {
    state: 'complete',
    manifest,
    diagnostics: capped(diagnostics),
    format,
    ...(rewritten || manifest.kind === 'batch' ? { rewritten: true } : {}),
  }
}

interface Checking {
  root: Record<string, unknown>
  o: ParseOptions
  folder: string | undefined
  written: (Reading & { state: 'complete' })['written']
  diagnostics: Diagnostic[]
  say: Say
}

type Checked = { manifest: Manifest; rewritten?: true } | (ParseOutcome & { state: 'invalid' })

const failed = (c: Checking): boolean => c.diagnostics.some((d) => d.severity === 'error')

function canonical(kind: ManifestKind, c: Checking): Checked {
  const { root, o, say } = c
  const schema = kinds[kind] as z.ZodObject
  if (root.kind === null || root.kind === '') delete root.kind
  if (root.priority === undefined && o.defaults?.priority !== undefined) root.priority = o.defaults.priority
  prepare(root, schema, c.written, say)
  if (kind === 'batch') beyondBatch(root, { folder: c.folder }, c.written, say)
  const parsed = schema.safeParse(root)
  if (!parsed.success) reportIssues(parsed.error.issues, root, kind, say)
  beyondSchema(root, kind, o, say)
  if (failed(c)) return invalid(c.diagnostics, root, kind)

  // Without errors, every issue was one of a lenient field, and that field has been taken out.
  const clean = parsed.success ? parsed : schema.safeParse(root)
  if (!clean.success) {
    reportIssues(clean.error.issues, root, undefined, say)
    return invalid(c.diagnostics, root, kind)
  }
  return { manifest: normalise(clean.data as Manifest, o) }
}

/** Checked as it is written, so that what is wrong is said of the fields that stand in the file, and then put into our own words. */
function translated(d: Dialect, c: Checking): Checked {
  const { root, o, say } = c
  prepare(root, d.schema, c.written, say)
  const parsed = d.schema.safeParse(root)
  if (!parsed.success) {
    reportIssues(parsed.error.issues, root, undefined, say)
    return invalid(c.diagnostics, root, d.kind)
  }
  const manifest = d.translate(parsed.data, { fileName: o.fileName, folder: c.folder, say })
  if (failed(c)) return invalid(c.diagnostics, root, d.kind)
  if (manifest.priority === undefined && o.defaults?.priority !== undefined) manifest.priority = o.defaults.priority
  const error: Say = (severity, path, message) => {
    // A fault that only shows in the translation is said of the VM that it is about.
    const item = d.list !== undefined && path[0] === 'vms' && path.length > 1 ? [d.list, path[1]!] : []
    if (severity === 'error') say(severity, item, message)
  }
  const schema = kinds[d.kind] as z.ZodObject
  if (d.kind === 'batch') beyondBatch(manifest, { folder: c.folder }, undefined, error)
  else beyondSchema(manifest, d.kind, o.baseDir === undefined ? {} : { baseDir: o.baseDir }, error)
  const clean = schema.safeParse(manifest)
  if (!clean.success)
    for (const i of clean.error.issues)
      error('error', i.path as Path, sentenceOf(i, valueAt(manifest, i.path as Path)).message)
  if (failed(c) || !clean.success) return invalid(c.diagnostics, root, d.kind)
  return { manifest: normalise(clean.data as Manifest, o), rewritten: true }
}

type Path = (string | number)[]

/** Issues as diagnostics. A lenient field (`lenient.ts`) only warns, and is left out of the manifest. */
function reportIssues(
  issues: readonly z.core.$ZodIssue[],
  root: Record<string, unknown>,
  kind: ManifestKind | undefined,
  say: Say,
): void {
  const dropped: (string | number)[][] = []
  for (const issue of issues) {
    const path = issue.path as (string | number)[]
    const sentence = sentenceOf(issue, valueAt(root, path))
    const lenient = kind === 'convert' ? isLenient(path, valueAt(root, path)) : undefined
    if (lenient === undefined) say('error', path, sentence.message, sentence)
    else {
      if (lenient === 'drop') dropped.push(path)
      say('warning', path, `${sentence.message}${lenient === 'drop' ? ' It is left out.' : ''}`, sentence)
    }
  }
  // Last first, so that indexes of list items stay right; values were needed for the sentences until here.
  for (const path of dropped.reverse()) drop(root, path)
}

function drop(root: Record<string, unknown>, path: (string | number)[]): void {
  const holder = valueAt(root, path.slice(0, -1))
  const key = path.at(-1)!
  if (Array.isArray(holder)) holder.splice(key as number, 1)
  else if (holder !== undefined) delete (holder as Record<string | number, unknown>)[key]
}

function invalid(
  diagnostics: Diagnostic[],
  root?: Record<string, unknown>,
  kind?: string,
): ParseOutcome & { state: 'invalid' } {
  const partial: { answer?: string; kind?: string } = {}
  if (root !== undefined) {
    const known = kind ?? (typeof root.kind === 'string' && Object.hasOwn(kinds, root.kind) ? root.kind : undefined)
    if (known !== undefined) partial.kind = known
    const given =
      known === 'batch'
        ? [root.name, valueAt(root, ['batch_metadata', 'batch_id'])]
        : [valueAt(root, ['source', 'vm_name']), root.name]
    const named = given.filter((n): n is string => typeof n === 'string' && n !== '')
    const answer = known === 'batch' && named[0] !== undefined ? named[0] + batchSuffix : named[0]
    // Only the first that is given: an answer under another name would be found by the wrong client.
    if (answer !== undefined && safeName(answer)) partial.answer = answer
    else if (named.length === 0 && known === 'convert') partial.answer = 'vm'
  }
  return { state: 'invalid', diagnostics: capped(diagnostics), ...(Object.keys(partial).length > 0 && { partial }) }
}

/** Errors before warnings, a wrong version before all (as Go's validator has it), then as they stand in the file. At most a hundred. */
function capped(diagnostics: Diagnostic[]): Diagnostic[] {
  const rank = (d: Diagnostic) => (d.severity === 'warning' ? 2 : d.path === 'manifest_version' ? 0 : 1)
  // Messages quote the file, also through the YAML library; a client shows them on a terminal.
  for (const d of diagnostics) d.message = withoutSecrets(printable(d.message))
  const sorted = diagnostics.toSorted(
    (a, b) => rank(a) - rank(b) || (a.line ?? 0) - (b.line ?? 0) || (a.column ?? 0) - (b.column ?? 0),
  )
  if (sorted.length <= mostDiagnostics) return sorted
  const rest = sorted.length - mostDiagnostics
  const severity = sorted[mostDiagnostics]!.severity
  return [
    ...sorted.slice(0, mostDiagnostics),
    { severity, path: '', message: `There are ${rest} more findings like these.` },
  ]
}
