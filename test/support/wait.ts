import { setTimeout as sleep } from 'node:timers/promises'

/**
 * Polls `look` until it gives something truthy, and returns that.
 * @throws Error naming `what` when nothing came within `deadline_ms`; the deadline only bounds the wait and is no assertion about speed.
 */
export async function until<T>(
  what: string,
  look: () => T | Promise<T>,
  o: { deadline_ms?: number; every_ms?: number; also?: () => string } = {},
): Promise<NonNullable<T>> {
  const deadline_ms = o.deadline_ms ?? 200_000
  const deadline = performance.now() + deadline_ms
  for (;;) {
    const value = await look()
    if (value) return value
    if (performance.now() > deadline) {
      throw new Error(`Waited ${deadline_ms} ms in vain for: ${what}.${o.also ? `\n${o.also()}` : ''}`)
    }
    await sleep(o.every_ms ?? 20)
  }
}
