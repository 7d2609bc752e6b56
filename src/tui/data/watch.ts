/**
 * Hints that something changed: fs.watch on a few folders. It sees nothing that another host writes, and may lose events; so nothing
 * depends on it but how soon a change is seen.
 */
import { type FSWatcher, watch } from 'node:fs'

/** Watches a folder until the returned function is called. One that is not there, or cannot be watched, is not watched. */
export function watchFolder(dir: string, onName: (name: string) => void): () => void {
  let watcher: FSWatcher | undefined
  try {
    watcher = watch(dir, (_type, name) => onName(name ?? ''))
    watcher.on('error', () => watcher?.close())
  } catch {
    return () => {}
  }
  return () => watcher?.close()
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
