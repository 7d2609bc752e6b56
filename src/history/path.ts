/** Where the index of finished jobs lies: on a local disk, one for each user, root's for the host. */
import { chmodSync, mkdirSync, statfsSync, statSync } from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import { isNetworkType } from '../process/network-fs.ts'
import { HistoryError } from './errors.ts'

/** root's: it indexes the spools of the host, and every user may read it. */
export const hostPath = '/var/cache/vmspool/history.db'

/** @param configured `history.path`, when it is set */
export function historyPath(configured: string | undefined, env: NodeJS.ProcessEnv = process.env): string {
  if (configured !== undefined) return configured
  if (process.getuid?.() === 0) return hostPath
  return join(env.XDG_CACHE_HOME || join(env.HOME || homedir(), '.cache'), 'vmspool', 'history.db')
}

/**
 * Makes the folder of the database and refuses one on a network: SQLite's locks do not hold there, and WAL needs shared memory.
 * @throws HistoryError 78 for a network filesystem, 73 when the folder cannot be made
 */
export function prepareFolder(path: string): void {
  const dir = dirname(path)
  try {
    makeFolder(dir, process.getuid?.() === 0 ? 0o755 : 0o700)
  } catch (error) {
    throw new HistoryError(
      `The folder ${dir} for the history cannot be made: ${(error as Error).message}. ` +
        'Name another file with history.path in the configuration or with VMSPOOL_HISTORY_PATH.',
      73,
      { cause: error },
    )
  }
  refuseNetwork(path)
}

/** Step by step: mkdir({ recursive: true }) of Node never comes back below /proc, where a new folder "does not exist". */
function makeFolder(dir: string, mode: number): void {
  const there = statSync(dir, { throwIfNoEntry: false })
  if (there?.isDirectory()) return
  if (there !== undefined) throw new Error(`${dir} is no folder`)
  if (dirname(dir) !== dir) makeFolder(dirname(dir), mode)
  try {
    mkdirSync(dir)
    chmodSync(dir, mode) // whatever the umask: other users read root's index
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  }
}

/** @throws HistoryError 78 when the folder of the database lies on a network filesystem */
export function refuseNetwork(path: string, typeOf = (dir: string): number => statfsSync(dir).type): void {
  if (!isNetworkType(typeOf(dirname(path)))) return
  throw new HistoryError(
    `The history ${path} lies on a network filesystem, where two hosts would damage it. It is only an index of the spools' files: ` +
      'set history.path (or VMSPOOL_HISTORY_PATH) to a file on a local disk of this host.',
    78,
  )
}
