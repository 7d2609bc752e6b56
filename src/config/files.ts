import { readFileSync } from 'node:fs'
import { offsetOf, lineCounter } from '../text/source.ts'
import { decodeUtf8 } from '../text/utf8.ts'
import { readYaml } from '../text/yaml.ts'
import type { ConfigDiagnostic } from './error.ts'

/** A value that a file or a variable gives, before anyone knows whether it is a setting. */
export interface Given {
  /** Dotted path as written. */
  path: string
  value: unknown
  /** `file:line` or `env NAME`. */
  origin: string
  file: string
  line?: number
  column?: number
  /** From a text without types (environment, `.conf`): "5" may be a number. */
  untyped?: boolean
}

/** What one file says. Undefined when it does not exist. Errors are pushed to `errors`. */
export function readConfigFile(
  file: string,
  keys: ReadonlySet<string>,
  errors: ConfigDiagnostic[],
): Given[] | undefined {
  let bytes: Buffer
  try {
    bytes = readFileSync(file)
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    errors.push({ severity: 'error', path: '', file, message: `${file} cannot be read: ${message}.` })
    return []
  }
  const decoded = decodeUtf8(bytes)
  if (decoded.state !== 'complete' || bytes.length > 1 << 20) {
    errors.push({
      severity: 'error',
      path: '',
      file,
      message: decoded.state === 'complete' ? `${file} is larger than 1 MiB.` : `${file} is not valid UTF-8.`,
    })
    return []
  }
  return /\.(?:conf|env)$/.test(file) ? assignments(decoded.text, file, errors) : yaml(decoded.text, file, keys, errors)
}

function yaml(text: string, file: string, keys: ReadonlySet<string>, errors: ConfigDiagnostic[]): Given[] {
  const reading = readYaml(text)
  const locate = lineCounter(text)
  if (reading.state !== 'complete') {
    // All commented out: a template that nobody changed.
    if (/^(?:\s*(?:#.*)?(?:\n|$)|---\s*\n)*$/.test(text) && text.length < 200_000) return []
    errors.push({
      severity: 'error',
      path: '',
      file,
      message: reading.message.replace('a manifest', 'a configuration file'),
      ...locate(reading.offset),
    })
    return []
  }
  for (const p of reading.problems)
    errors.push({ severity: p.severity, path: p.path.join('.'), file, message: p.message, ...locate(p.offset) })
  const given: Given[] = []
  const visit = (value: unknown, path: string[]) => {
    const dotted = path.join('.')
    if (!keys.has(dotted) && value !== null && typeof value === 'object' && !Array.isArray(value)) {
      const entries = Object.entries(value)
      for (const [k, v] of entries) visit(v, [...path, k])
      if (entries.length > 0) return
      if (path.length === 0) return
    }
    const place = locate(offsetOf(reading.value, reading.places, path, 'key') ?? 0)
    given.push({ path: dotted, value, origin: `${file}:${place.line}`, file, ...place })
  }
  visit(reading.value, [])
  return given
}

/** KEY=value lines as in systemd's EnvironmentFile: the old configuration can be used as it is. */
function assignments(text: string, file: string, errors: ConfigDiagnostic[]): Given[] {
  const given: Given[] = []
  text.split(/\r?\n/).forEach((raw, i) => {
    const line = raw.trim()
    if (line === '' || line.startsWith('#') || line.startsWith(';')) return
    const m = /^(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)$/.exec(line)
    if (m === null) {
      errors.push({
        severity: 'error',
        path: '',
        file,
        line: i + 1,
        column: 1,
        message: 'Every line of this file must be NAME=value or a comment.',
      })
      return
    }
    const value = m[2]!.replace(/^(["'])(.*)\1$/, '$2')
    given.push({ path: m[1]!, value, origin: `${file}:${i + 1}`, file, line: i + 1, column: 1, untyped: true })
  })
  return given
}
