/**
 * Group commit. fsync of a folder makes every change in it durable, so all who ask while one is under way share the
 * next: a burst of a thousand jobs costs a few fsyncs per folder, a single job waits for none but its own. Listings that must be
 * fresh are shared in the same way.
 */
export function groupSync<T>(once: (dir: string) => Promise<T>): (dir: string) => Promise<T> {
  const running = new Map<string, Promise<T>>()
  const waiting = new Map<string, Promise<T>>()

  function start(dir: string): Promise<T> {
    const p = once(dir).finally(() => {
      if (running.get(dir) === p) running.delete(dir)
    })
    running.set(dir, p)
    return p
  }

  return (dir) => {
    const now = running.get(dir)
    if (!now) return start(dir)
    // The one under way may have begun before the caller's change: only the next one covers it.
    let next = waiting.get(dir)
    if (!next) {
      next = now.then(
        () => {
          waiting.delete(dir)
          return start(dir)
        },
        () => {
          waiting.delete(dir)
          return start(dir)
        },
      )
      waiting.set(dir, next)
    }
    return next
  }
}
