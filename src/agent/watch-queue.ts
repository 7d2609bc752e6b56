import type { Agent } from './state.ts'

/** Hints only: a watcher overflows silently and sees nothing that another NFS client writes; the listing is the truth. */
export async function watchQueue(a: Agent, kick: () => void): Promise<{ close(): Promise<void> } | undefined> {
  try {
    const { watch } = await import('chokidar')
    const watcher = watch(a.spool.layout.queue, {
      depth: 0,
      ignoreInitial: true,
      followSymlinks: false,
      ignored: (path) => path !== a.spool.layout.queue && /\/\.[^/]*$/.test(path),
    })
    watcher.on('raw', kick).on('all', kick)
    watcher.on('error', (error) =>
      a.log.warn('watch.failed', { error, effect: 'drops are found by listing, within intake.poll_ms' }),
    )
    return watcher
  } catch (error) {
    a.log.warn('watch.failed', { error, effect: 'drops are found by listing, within intake.poll_ms' })
    return undefined
  }
}
