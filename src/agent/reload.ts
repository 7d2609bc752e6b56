/** HUP: the configuration is read again, and what may change in a running agent does. */
import { type Config, keys, loadConfig, reloadable } from '../config/index.ts'

type Tree = Record<string, unknown>

function at(tree: unknown, path: readonly string[]): unknown {
  let v = tree
  for (const part of path) v = (v as Tree | undefined)?.[part]
  return v
}

function put(tree: Tree, path: readonly string[], value: unknown): void {
  const [first, ...rest] = path
  if (first === undefined) return
  if (rest.length === 0) tree[first] = value
  else put(tree[first] as Tree, rest, value)
}

/** Dotted paths of all settings that differ; one that is a map (path_map, concurrency.groups) is one setting. */
function differences(a: unknown, b: unknown, path = ''): string[] {
  const tree = (v: unknown): v is Tree => typeof v === 'object' && v !== null && !Array.isArray(v)
  if (tree(a) && tree(b) && !(keys as readonly string[]).includes(path)) {
    const keys = new Set([...Object.keys(a), ...Object.keys(b)])
    return [...keys].flatMap((k) => differences(a[k], b[k], path === '' ? k : `${path}.${k}`))
  }
  return JSON.stringify(a) === JSON.stringify(b) ? [] : [path]
}

/**
 * @returns the new configuration, what changed in it, and what would need a restart
 * @throws ConfigError when the files are wrong; the old configuration then stays
 */
export function reread(
  old: Config,
  how: Parameters<typeof loadConfig>[0],
): { config: Config; changed: string[]; needRestart: string[] } {
  const { config: fresh } = loadConfig(how)
  const config = structuredClone(old)
  const changed: string[] = []
  const needRestart: string[] = []
  for (const path of differences(old, fresh)) {
    if ((reloadable as readonly string[]).includes(path)) {
      put(config as unknown as Tree, path.split('.'), at(fresh, path.split('.')))
      changed.push(path)
    } else needRestart.push(path)
  }
  return { config, changed, needRestart }
}
