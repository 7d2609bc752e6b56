/** One finding about a file somebody wrote: a manifest or a configuration. Lines and columns count from 1. */
export interface Diagnostic {
  severity: 'error' | 'warning'
  /** Where in the data, e.g. `disks[0].source_format`; empty for the file as a whole. */
  path: string
  /** A full sentence that names the value. */
  message: string
  /** The value found, when it is short enough to be worth showing. */
  value?: unknown
  /** What would have been accepted. */
  allowed?: readonly string[]
  /** What was probably meant. */
  suggestion?: string
  line?: number
  column?: number
}

export type Path = readonly (string | number)[]

/** `['disks', 0, 'id']` → `disks[0].id`; keys that are not plain words are quoted. */
export function pathText(path: Path): string {
  let text = ''
  for (const part of path) {
    if (typeof part === 'number') text += `[${part}]`
    else if (/^[$A-Za-z_][\w$-]*$/.test(part)) text += text === '' ? part : `.${part}`
    else text += `[${show(part)}]`
  }
  return text
}

const longest = 120

/** A value as it may stand in a sentence: JSON, cut to a readable length, free of control characters. */
export function show(value: unknown): string {
  if (value === undefined) return 'nothing'
  if (typeof value === 'string') {
    const cut = value.length > longest ? `${value.slice(0, longest).toWellFormed()}…` : value.toWellFormed()
    return printable(JSON.stringify(cut))
  }
  if (typeof value === 'number' || typeof value === 'boolean' || typeof value === 'bigint' || value === null)
    return String(value)
  return kindOf(value)
}

/** Text in which a terminal finds nothing to act on: control characters and bidirectional overrides become \\u escapes. */
export function printable(text: string): string {
  return text.toWellFormed().replace(
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
    /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

/** "a string", "a list", …: for "must be a number, not a list". */
export function kindOf(value: unknown): string {
  if (value === null) return 'null'
  if (value === undefined) return 'missing'
  if (Array.isArray(value)) return 'a list'
  if (typeof value === 'object') return 'an object'
  if (typeof value === 'number' && Number.isFinite(value) && !Number.isInteger(value)) return 'a fraction'
  return `a ${typeof value}`
}

/** The value to keep in a diagnostic: scalars, long strings cut; containers would only repeat the file. */
export function shortValue(value: unknown): unknown {
  if (typeof value === 'string')
    return value.length > longest ? `${value.slice(0, longest).toWellFormed()}…` : value.toWellFormed()
  if (value === null || typeof value === 'number' || typeof value === 'boolean') return value
  return undefined
}

/** The value at a path, or undefined. Own properties only. */
export function valueAt(root: unknown, path: Path): unknown {
  let value = root
  for (const part of path) {
    if (value === null || typeof value !== 'object' || !Object.hasOwn(value, part)) return undefined
    value = (value as Record<string | number, unknown>)[part]
  }
  return value
}
