/**
 * Where an instance lies, for views that must answer at once: schemas and YAML cost more than the whole of a `vmspool list`.
 * Whatever could say otherwise than what is read here (a file that speaks of folders, a variable that is not known here)
 * gives undefined, and then loadConfig() decides.
 */
import { readFileSync } from 'node:fs'
import { isAbsolute, normalize, resolve } from 'node:path'
import { defaultRoot, instanceFault, standardFiles } from './places.ts'

export interface QuickPlaces {
  root: string
  queue?: undefined
  output?: undefined
  /** history.path, when the environment names it */
  history?: string
}

/** Variables that say nothing about folders, or are read here. */
const known =
  /^VMSPOOL_(?:ROOT|INSTANCE|HISTORY_PATH|CONFIG_DIR|RUNTIME_DIR|DEBUG|HOME|JOB|NAME|EPOCH|GROUP|OWNER|JOB_.*|TEST_.*|BENCH_.*)$/

/** What a file must not contain for its folders to be the default ones; a backslash could spell any of it otherwise. */
const speaksOfFolders = /root|queue|path|output|history|watch_dir|\\/i

/** @returns undefined when only loadConfig() can tell */
export function quickPlaces(o: {
  instance: string
  root?: string | undefined
  configFile?: string | undefined
  env: NodeJS.ProcessEnv
}): QuickPlaces | undefined {
  const { env } = o
  const uid = process.getuid?.() ?? 0
  if (instanceFault(o.instance) !== undefined) return undefined
  for (const name in env) if (name.startsWith('VMSPOOL_') && env[name] !== '' && !known.test(name)) return undefined
  for (const file of standardFiles(o.instance, env, uid)) if (!harmless(file, true)) return undefined
  if (o.configFile !== undefined && !harmless(resolve(o.configFile), false)) return undefined
  const root = o.root !== undefined ? resolve(o.root) : env.VMSPOOL_ROOT || defaultRoot(o.instance, env, uid)
  const history = env.VMSPOOL_HISTORY_PATH || undefined
  if (!isPlain(root) || (history !== undefined && !isPlain(history))) return undefined
  return { root: tidy(root), ...(history === undefined ? {} : { history: tidy(history) }) }
}

function harmless(file: string, mayBeMissing: boolean): boolean {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    return mayBeMissing && ['ENOENT', 'ENOTDIR'].includes(String((error as NodeJS.ErrnoException).code))
  }
  return !text.split('\n').some((line) => !/^\s*#/.test(line) && speaksOfFolders.test(line))
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: what a path must not have
const isPlain = (path: string): boolean => isAbsolute(path) && !/[\u0000-\u001f]/.test(path)
const tidy = (path: string): string => normalize(path).replace(/(?<=.)\/+$/, '')
