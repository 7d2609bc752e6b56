/** Where `vmspool run` puts its jobs, found out with as little as can be: the configuration is read only where there is one. */
import { existsSync } from 'node:fs'
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { ownerBesideRoot } from '../spool/belongs.ts'
import { type Layout, layoutOf } from '../spool/layout.ts'
import type { SpoolPlace } from './place.ts'

export interface RunPlace {
  layout: Layout
  log: { max_bytes: number; max_age_ms: number; total_bytes: number }
  kill_grace_ms: number
}

/** What the settings of these names are without any configuration; a test compares them. */
export const runDefaults = {
  log: { max_bytes: 16 * 2 ** 20, max_age_ms: 0, total_bytes: 256 * 2 ** 20 },
  kill_grace_ms: 10_000,
}

const systemRoot = '/var/lib/vmspool'
/** Variables that say nothing about a job without an agent. */
const noSetting = /^VMSPOOL_(?:INSTANCE|ROOT|DEBUG|HOME|JOB|NAME|EPOCH|GROUP|OWNER|TEST_.*|RUNTIME_DIR|HISTORY_PATH)$/

/** A user's own spools, where he needs nobody's permission. Root's are the host's, unless that one belongs to the user of a service. */
export function ownRoot(instance: string, env: NodeJS.ProcessEnv = process.env, ofHost = systemRoot): string {
  if (process.getuid?.() === 0 && ownerBesideRoot(layoutOf({ root: ofHost, instance })) === undefined) return ofHost
  const home = env.HOME || homedir()
  return join(env.XDG_DATA_HOME || join(home, '.local', 'share'), 'vmspool')
}

/**
 * `--root`, else VMSPOOL_ROOT, else what the user's own configuration says (root's: the host's), else /var/lib/vmspool for root, where that
 * is not a service's, and $XDG_DATA_HOME/vmspool for users. Touches nothing.
 * @throws ConfigError 78
 */
export async function runPlace(o: SpoolPlace = {}): Promise<RunPlace> {
  const { env } = process
  const instance = o.instance ?? (env.VMSPOOL_INSTANCE || 'default')
  const root = o.root === undefined ? env.VMSPOOL_ROOT || ownRoot(instance, env) : resolve(o.root)
  const plain = root.startsWith('/') && /^[A-Za-z0-9_][\w.:-]{0,63}$/.test(instance)
  if (plain && o.config === undefined && !isConfigured(instance, env))
    return { layout: layoutOf({ root: resolve(root), instance }), ...runDefaults }
  const { loadConfig } = await import('../config/index.ts')
  const { config, origin } = loadConfig({ instance, root: o.root, configFile: o.config, env })
  // What the host's configuration says is meant for the host's agents, whose spool is not a user's.
  const hosts = (key: string): boolean =>
    ownRoot(instance, env) !== systemRoot && /^(default|\/etc\/)/.test(origin[key] ?? 'default')
  const own = hosts('root')
  const layout = layoutOf({
    root: own ? ownRoot(instance, env) : config.root,
    instance: config.instance,
    queue: own && hosts('queue') ? undefined : config.queue,
    output: own && hosts('output') ? undefined : config.output,
  })
  const { max_bytes, max_age, total_bytes } = config.logs
  return { layout, log: { max_bytes, max_age_ms: max_age, total_bytes }, kill_grace_ms: config.timeouts.kill_grace }
}

function isConfigured(instance: string, env: NodeJS.ProcessEnv): boolean {
  for (const name in env) if (name.startsWith('VMSPOOL_') && !noSetting.test(name)) return true
  const home = env.XDG_CONFIG_HOME || (env.HOME ? join(env.HOME, '.config') : undefined)
  return ['/etc/vmspool', ...(home === undefined ? [] : [join(home, 'vmspool')])].some((dir) =>
    ['agent.yaml', `agent@${instance}.yaml`].some((file) => existsSync(join(dir, file))),
  )
}
