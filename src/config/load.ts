import { resolve } from 'node:path'
import { show } from '../text/diagnostic.ts'
import { nearest } from '../text/nearest.ts'
import { type Alias, aliases, aliasNames, ghostVariables } from './aliases.ts'
import { type ConfigDiagnostic, ConfigError } from './error.ts'
import { type Given, readConfigFile } from './files.ts'
import { defaultRoot, defaultRuntimeDir, instanceFault, standardFiles } from './places.ts'
import { keys, settings } from './settings.ts'
import type { Setting } from './setting.ts'
import type { Config, Key } from './types.ts'

export interface LoadOptions {
  instance: string
  /** --root */
  root?: string
  /** --config: one more YAML file, read last; or an old EnvironmentFile, when it ends in `.conf` or `.env`. */
  configFile?: string
  /** Default: process.env. */
  env?: NodeJS.ProcessEnv
  /** Other options of the command line: key → value as it was typed. */
  flags?: Partial<Record<Key, string>>
  /** Default: the user of this process. */
  uid?: number
}

export interface Loaded {
  config: Config
  /** Dotted key → "default", "file:line", "env VMSPOOL_X" or "flag --x"; for an older key its name in brackets. */
  origin: Record<string, string>
  /** The files that were read, in order. */
  files: string[]
  /** What was accepted and has no effect. */
  warnings: ConfigDiagnostic[]
}

/** Variables that are no settings: set for jobs and children, or read before the configuration is. */
const otherVariables =
  /^VMSPOOL_(?:INSTANCE|CONFIG_DIR|DEBUG|HOME|JOB|NAME|EPOCH|GROUP|OWNER|JOB_.*|TEST_.*|BENCH_.*|FUZZ_.*)$/

const keySet: ReadonlySet<string> = new Set(keys)
const envName = (key: string) => `VMSPOOL_${key.replaceAll('.', '_').toUpperCase()}`
const byEnvName = new Map<string, string>([
  ...[...aliases.keys()].map((a) => [envName(a), a] as const),
  ...keys.map((k) => [envName(k), k] as const),
])

/**
 * The effective configuration. Order, later ones win: defaults, /etc/vmspool/agent.yaml, agent@NAME.yaml there, for
 * users the same two in $XDG_CONFIG_HOME/vmspool, `configFile`, Ghost Agent's GHOST_* and our VMSPOOL_* variables, options of the command line.
 * @throws ConfigError (exit code 78) with every error found, each with its place and what was probably meant
 */
export function loadConfig(o: LoadOptions): Loaded {
  const env = o.env ?? process.env
  const uid = o.uid ?? process.getuid?.() ?? 0
  const found: ConfigDiagnostic[] = []
  const values = new Map<Key, unknown>()
  const origin: Record<string, string> = {}
  const files: string[] = []

  const fault = instanceFault(o.instance)
  if (fault !== undefined)
    throw new ConfigError([{ severity: 'error', path: 'instance', file: 'command line', message: fault }])

  const store = (key: Key, raw: unknown, given: Given, note = '') => {
    const { reader, later, standard } = settings[key] as Setting<unknown>
    const value = given.untyped && typeof raw === 'string' && reader.fromText ? reader.fromText(raw) : raw
    const read = reader.read(value)
    const at = { path: given.path, file: given.file, line: given.line, column: given.column }
    if (!read.ok) {
      const hint = read.suggestion === undefined ? '' : ` Did you mean "${read.suggestion}"?`
      const { allowed, suggestion } = read
      found.push({
        severity: 'error',
        ...at,
        message: `${given.path} is ${show(raw)}; it ${read.message}.${hint}`,
        value: raw,
        allowed,
        suggestion,
      })
      return
    }
    const usual = reader.read(standard)
    if (later !== undefined && !(usual.ok && usual.value === read.value))
      found.push({
        severity: 'warning',
        ...at,
        message: `${given.path} has no effect yet: ${later} comes with a later version.`,
      })
    values.set(key, read.value)
    origin[key] = given.origin + note
  }

  const viaAlias = (alias: Alias, given: Given) => {
    const at = { path: given.path, file: given.file, line: given.line, column: given.column }
    if ('ignored' in alias) {
      if (!alias.harmless?.some((h) => h === given.value || (given.untyped && String(h) === given.value)))
        found.push({ severity: 'warning', ...at, message: `${given.path} has no meaning here: ${alias.ignored}.` })
    } else if ('split' in alias) {
      const parts = alias.split(given.value)
      if (typeof parts === 'string')
        found.push({ severity: 'error', ...at, message: `${given.path} is ${show(given.value)}; it ${parts}.` })
      else for (const part of parts) store(part.key, part.value, given, ` (${given.path})`)
    } else {
      // Empty was "off" in the old files.
      if (given.untyped && given.value === '') return
      store(alias.key, inUnit(given, alias.unit), given, ` (${given.path})`)
    }
  }

  const take = (given: Given) => {
    if (keySet.has(given.path)) {
      if (given.value === null) return // "key:" with nothing behind it: not given
      return store(given.path as Key, given.value, given)
    }
    const alias = aliases.get(given.path.toLowerCase())
    if (alias !== undefined) return given.value === null ? undefined : viaAlias(alias, given)
    // `lease.timeout_ms: 500`: a duration with its unit in the name.
    const plain = given.path.replace(/_ms$/, '')
    if (plain !== given.path && keySet.has(plain) && typeof given.value === 'number')
      return store(plain as Key, given.value / 1000, given)
    const section = keys.some((k) => k.startsWith(`${given.path}.`))
    if (section) {
      if (given.value !== null && !(typeof given.value === 'object' && !Array.isArray(given.value)))
        found.push({
          severity: 'error',
          path: given.path,
          file: given.file,
          line: given.line,
          column: given.column,
          message: `${given.path} is ${show(given.value)}; it must be a mapping with ${under(given.path)}.`,
        })
      return
    }
    unknown(given)
  }

  const unknown = (given: Given) => {
    const suggestion = nearKey(given.path)
    const hint = suggestion === undefined ? '' : ` Did you mean "${suggestion}"?`
    found.push({
      severity: 'error',
      path: given.path,
      file: given.file,
      line: given.line,
      column: given.column,
      message: `There is no setting ${show(given.path)}.${hint}`,
      suggestion,
    })
  }

  for (const file of standardFiles(o.instance, env, uid)) {
    const given = readConfigFile(file, keySet, found)
    if (given === undefined) continue
    files.push(file)
    for (const g of given) take(g)
  }
  if (o.configFile !== undefined) {
    const file = resolve(o.configFile)
    const given = readConfigFile(file, keySet, found)
    if (given === undefined)
      found.push({ severity: 'error', path: '', file, message: `The configuration file ${file} does not exist.` })
    else {
      files.push(file)
      for (const g of given) take(g)
    }
  }
  // GHOST_* come before VMSPOOL_*, which overrule them
  for (const [name, value] of Object.entries(env).sort(([a], [b]) => (a < b ? -1 : 1))) {
    const ghost = ghostVariables.get(name)
    if (ghost !== undefined && value !== undefined && value !== '')
      take({ path: ghost, value, origin: `env ${name}`, file: 'environment', untyped: true })
    if (!name.startsWith('VMSPOOL_') || otherVariables.test(name) || value === undefined || value === '') continue
    const key = byEnvName.get(name)
    const given: Given = { path: key ?? name, value, origin: `env ${name}`, file: 'environment', untyped: true }
    if (key !== undefined) take(given)
    else {
      const suggestion = nearest(name, byEnvName.keys())
      const hint = suggestion === undefined ? '' : ` Did you mean ${suggestion}?`
      found.push({
        severity: 'error',
        path: name,
        file: 'environment',
        message: `The variable ${name} names no setting.${hint}`,
        suggestion,
      })
    }
  }
  const flags: Partial<Record<Key, string>> = { ...o.flags, ...(o.root !== undefined && { root: resolve(o.root) }) }
  for (const [key, value] of Object.entries(flags))
    if (value !== undefined)
      take({ path: key, value, origin: `flag --${key.replaceAll(/[._]/g, '-')}`, file: 'command line', untyped: true })

  if (found.some((d) => d.severity === 'error')) throw new ConfigError(found)

  for (const key of keys) {
    if (values.has(key)) continue
    origin[key] = 'default'
    const { reader, standard } = settings[key] as Setting<unknown>
    if (standard === undefined) continue
    const read = reader.read(standard)
    if (read.ok) values.set(key, read.value)
  }
  if (!values.has('root')) values.set('root', defaultRoot(o.instance, env, uid))
  const root = values.get('root') as string
  if (!values.has('runtime_dir')) values.set('runtime_dir', defaultRuntimeDir(o.instance, root, env, uid))
  const ordered = Object.fromEntries(keys.map((k) => [k, origin[k]!]))
  return { config: nested(o.instance, values), origin: ordered, files, warnings: found }
}

function inUnit(given: Given, unit: Extract<Alias, { key: Key }>['unit']): unknown {
  const n =
    typeof given.value === 'number'
      ? given.value
      : given.untyped && /^\d+(?:\.\d+)?$/.test(String(given.value))
        ? Number(given.value)
        : undefined
  if (n === undefined || unit === undefined) return given.value
  if (unit === 'GiB') return Math.round(n * 1024 ** 3)
  return unit === 'minutes' ? n * 60 : unit === 'days' ? n * 86_400 : n * 1000
}

function under(section: string): string {
  return keys
    .filter((k) => k.startsWith(`${section}.`))
    .map((k) => k.slice(section.length + 1))
    .join(', ')
}

/** The setting that an unknown path probably means: compared whole, then by its last part alone (`timeout` in the wrong section). */
function nearKey(path: string): string | undefined {
  const whole = nearest(path, [...keys, ...aliasNames])
  if (whole !== undefined) return whole
  const last = path.split('.').at(-1)!
  const byLast = keys.filter((k) => k.split('.').at(-1) === last)
  if (byLast.length === 1) return byLast[0]
  const near = nearest(
    last,
    keys.map((k) => k.split('.').at(-1)!),
  )
  const meant = keys.filter((k) => k.split('.').at(-1) === near)
  return meant.length === 1 ? meant[0] : undefined
}

function nested(instance: string, values: ReadonlyMap<Key, unknown>): Config {
  const config: Record<string, unknown> = { instance }
  for (const key of keys) {
    const steps = key.split('.')
    const last = steps.pop()!
    let holder = config
    for (const step of steps) {
      holder[step] ??= {}
      holder = holder[step] as Record<string, unknown>
    }
    if (values.has(key)) holder[last] = values.get(key)
  }
  return config as unknown as Config
}
