import { accessSync, constants } from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import { sha256Hex } from '../text/sha256.ts'

/** The spool folder of the host. */
const systemRoot = '/var/lib/vmspool'

/**
 * Where spools lie when nobody says: the host's for root, and for a user when this instance is there for them to use
 * (members of its group), else the user's own.
 */
export function defaultRoot(instance: string, env: NodeJS.ProcessEnv, uid: number): string {
  if (uid === 0) return systemRoot
  try {
    accessSync(join(systemRoot, instance), constants.R_OK | constants.X_OK)
    return systemRoot
  } catch {
    return join(env.XDG_DATA_HOME || join(env.HOME || homedir(), '.local', 'share'), 'vmspool')
  }
}

/**
 * Where the sockets of an instance lie: /run/vmspool/<instance>, or what systemd made for the service, or below
 * $XDG_RUNTIME_DIR. Instances of one name under different roots are different instances, so another root than the
 * default one adds its hash.
 */
export function defaultRuntimeDir(instance: string, root: string, env: NodeJS.ProcessEnv, uid: number): string {
  const own = env.RUNTIME_DIRECTORY?.split(':')[0]
  if (own) return own
  const standard = root === systemRoot || root === defaultRoot(instance, env, uid)
  const name = standard ? instance : `${instance}-${sha256Hex(root).slice(0, 8)}`
  if (uid === 0 || (root === systemRoot && !env.XDG_RUNTIME_DIR)) return join('/run/vmspool', name)
  return env.XDG_RUNTIME_DIR ? join(env.XDG_RUNTIME_DIR, 'vmspool', name) : join(tmpdir(), `vmspool-${uid}`, name)
}

/** An instance is a folder name and a part of a systemd unit's name. */
export function instanceFault(instance: string): string | undefined {
  if (/^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}$/.test(instance)) return undefined
  return `The instance name ${JSON.stringify(instance.slice(0, 80))} cannot be used: it must be 1 to 64 letters, digits and "_", "-", ".", ":", and start with a letter, a digit or "_".`
}

/**
 * The files of an instance in reading order. A user's own come after those of the host:
 * `$XDG_CONFIG_HOME/vmspool/agent.yaml`; then what systemd loaded for the service (systemd.exec(5), CREDENTIALS).
 * `VMSPOOL_CONFIG_DIR` replaces all these folders.
 */
export function standardFiles(instance: string, env: NodeJS.ProcessEnv, uid: number): string[] {
  const names = ['agent.yaml', `agent@${instance}.yaml`]
  if (env.VMSPOOL_CONFIG_DIR) return names.map((n) => join(env.VMSPOOL_CONFIG_DIR!, n))
  const folders = ['/etc/vmspool']
  if (uid !== 0) folders.push(join(env.XDG_CONFIG_HOME || join(env.HOME || homedir(), '.config'), 'vmspool'))
  const files = folders.flatMap((f) => names.map((n) => join(f, n)))
  // LoadCredential= of the unit: settings that only root and the agent may read.
  return env.CREDENTIALS_DIRECTORY ? [...files, join(env.CREDENTIALS_DIRECTORY, 'agent.yaml')] : files
}
