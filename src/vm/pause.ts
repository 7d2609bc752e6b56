import { setTimeout as sleep } from 'node:timers/promises'

/** Waits, in ms; with `ref: false` a process that has nothing else to do may end meanwhile. @throws the signal's reason */
export function pause(ms: number, signal: AbortSignal, o: { ref?: boolean } = {}): Promise<void> {
  return sleep(ms, undefined, { ...o, signal }).catch(() => signal.throwIfAborted())
}
