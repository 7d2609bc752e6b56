/** At most so many reads a second, whatever there is to read. */
export interface Budget {
  /** waits until something may be read, and says how much: 1 to `most` */
  take(most: number): Promise<number>
  stop(): void
}

/** @param clock in ms, monotonic */
export function budget(perSecond: number, burst: number, clock: () => number = () => performance.now()): Budget {
  let left = burst
  let at = clock()
  let stopped = false
  let timer: NodeJS.Timeout | undefined
  let wake: (() => void) | undefined
  const refill = (): void => {
    const now = clock()
    left = Math.min(burst, left + ((now - at) * perSecond) / 1000)
    at = now
  }
  return {
    async take(most) {
      refill()
      while (left < 1 && !stopped) {
        await new Promise<void>((resolve) => {
          wake = resolve
          timer = setTimeout(resolve, Math.ceil(((1 - left) * 1000) / perSecond))
        })
        refill()
      }
      const n = Math.max(1, Math.min(most, Math.floor(left)))
      left -= n
      return n
    },
    stop() {
      stopped = true
      clearTimeout(timer)
      wake?.()
    },
  }
}
