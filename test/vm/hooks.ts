import type { VmHooks } from '../../src/vm/types.ts'

export interface RecordedHooks extends VmHooks {
  told: Parameters<VmHooks['progress']>[0][]
  children: number
  abort(reason: unknown): void
}

/** Keeps what it is told. `onSpawned` is called as each child begins. */
export function recordingHooks(o: { onSpawned?: (h: RecordedHooks) => void } = {}): RecordedHooks {
  const controller = new AbortController()
  const hooks: RecordedHooks = {
    told: [],
    children: 0,
    signal: controller.signal,
    abort: (reason) => controller.abort(reason),
    progress: (p) => void hooks.told.push(p),
    log: () => {},
    spawned: () => {
      hooks.children++
      o.onSpawned?.(hooks)
    },
  }
  return hooks
}
