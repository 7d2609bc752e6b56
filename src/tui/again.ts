/** A screen that looks again and again while it is open. */
import type { Context } from './screen.ts'

export interface Again {
  /** at once, instead of when its time comes */
  now(): void
  show(): void
  hide(): void
  readonly shown: boolean
}

/**
 * @param look finds out how things are; what it throws is shown
 * @param next in how many ms to look again, when a look took so many; undefined: no more
 */
export function lookAgain(
  c: Pick<Context, 'fail' | 'changed'>,
  look: () => Promise<void>,
  next: (tookMs: number) => number | undefined,
): Again {
  let timer: NodeJS.Timeout | undefined
  let open = false

  async function now(): Promise<void> {
    clearTimeout(timer)
    const start = performance.now()
    try {
      await look()
    } catch (error) {
      c.fail(error)
    }
    if (!open) return
    c.changed()
    clearTimeout(timer) // of another look that was asked for meanwhile
    const ms = next(performance.now() - start)
    if (ms !== undefined) timer = setTimeout(now, ms)
  }

  return {
    now: () => void now(),
    show() {
      open = true
      void now()
    },
    hide() {
      open = false
      clearTimeout(timer)
    },
    get shown() {
      return open
    },
  }
}
