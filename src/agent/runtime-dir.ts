/**
 * Where an agent's sockets lie: a folder of this host, because a socket on a network file system belongs to one host and
 * socket paths are short (107 bytes; Node cuts longer ones without a word).
 */
import { accessSync, chmodSync, constants, lstatSync, mkdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { AgentError } from './errors.ts'

/** sun_path of unix(7) has 108 bytes, the last is NUL */
export const MAX_SOCKET_PATH = 107

/** Makes the folder, and refuses one that another user could have put there. */
function usable(dir: string, uid: number): boolean {
  try {
    mkdirSync(dir, { recursive: true, mode: 0o755 })
    const s = lstatSync(dir)
    if (!s.isDirectory() || s.uid !== uid) return false
    if ((s.mode & 0o022) !== 0) chmodSync(dir, 0o755)
    return true
  } catch {
    return false
  }
}

/**
 * The runtime folder of an instance, made if needed: the configured one (`runtime_dir`), else one below $XDG_RUNTIME_DIR, else a
 * folder per user below the temporary folder.
 * @throws {AgentError} 73 when none of them can be used, or when a socket's path in it would be too long
 */
export function runtimeDir(wanted: string, instance: string, env: NodeJS.ProcessEnv = process.env): string {
  const uid = process.getuid?.() ?? 0
  const tried: string[] = []
  const others = [
    env.XDG_RUNTIME_DIR && join(env.XDG_RUNTIME_DIR, 'vmspool', instance),
    join(tmpdir(), `vmspool-${uid}`, instance),
  ]
  for (const dir of new Set([wanted, ...others])) {
    if (!dir) continue
    if (!fits(dir)) tried.push(`${dir} (with a socket's name it is longer than ${MAX_SOCKET_PATH} bytes)`)
    else if (usable(dir, uid)) return dir
    else tried.push(`${dir} (cannot be made, or belongs to another user)`)
  }
  throw new AgentError(
    `There is no folder for the control socket of instance "${instance}". Tried: ${tried.join('; ')}. Set runtime_dir to a short path that user ${uid} may write.`,
    73,
  )
}

/** The longest name we put into the folder has 32 bytes. */
function fits(dir: string): boolean {
  return Buffer.byteLength(dir) + 1 + 32 <= MAX_SOCKET_PATH
}

/**
 * Where it is noted what VMs under way will take of this host: beside the runtime folders of the instances, so that all share it, where this
 * user may write there (systemd/vmspool.tmpfiles), else in `runtime`, where nobody else looks.
 */
export function promisesDir(runtime: string): { dir: string; shared: string; error?: unknown } {
  const shared = join(dirname(runtime), 'vm-promises')
  try {
    mkdirSync(shared, { recursive: true, mode: 0o770 })
    // It may be there and be somebody else's, or read-only for this unit.
    accessSync(shared, constants.W_OK | constants.X_OK)
    return { dir: shared, shared }
  } catch (error) {
    return { dir: join(runtime, 'vm-promises'), shared, error }
  }
}
