/**
 * Hints that something changed: fs.watch on a few folders. It sees nothing that another host writes, and may lose events; so nothing
 * depends on it but how soon a change is seen.
 */
import { type FSWatcher, watch } from 'node:fs'
import { basename } from 'node:path'

export interface Watches {
  /** watches what is not watched (yet): a folder may come later, or go and come again */
  again(): void
  stop(): void
}

/** Watches folders, each with what is to be done about a name in it ('' when it is not known which). What cannot be watched is not. */
export function watchFolders(folders: Readonly<Record<string, (name: string) => void>>): Watches {
  const open = new Map<string, FSWatcher>()
  const forget = (dir: string): void => {
    open.get(dir)?.close()
    open.delete(dir)
  }
  const watches: Watches = {
    again() {
      for (const [dir, onName] of Object.entries(folders)) {
        if (open.has(dir)) continue
        try {
          const watcher = watch(dir, (type, name) => {
            // A folder that is removed tells its own name.
            if (type === 'rename' && name === basename(dir)) forget(dir)
            onName(name ?? '')
          })
          watcher.on('error', () => forget(dir))
          open.set(dir, watcher)
        } catch {
          // not there, or no more watches to be had
        }
      }
    },
    stop() {
      for (const dir of [...open.keys()]) forget(dir)
    },
  }
  watches.again()
  return watches
}

/** Calls together what comes together: once, so many ms after the first of it. */
export function soon(ms: number, run: () => void): { (): void; stop(): void } {
  let timer: NodeJS.Timeout | undefined
  const call = (): void => {
    timer ??= setTimeout(() => {
      timer = undefined
      run()
    }, ms)
  }
  return Object.assign(call, {
    stop() {
      clearTimeout(timer)
      timer = undefined
    },
  })
}
