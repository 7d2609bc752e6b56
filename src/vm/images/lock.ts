/**
 * Locks among processes. They save work and keep two from doing the same; no lock decides whether an image is right: a stalled owner
 * may wake up after its lock was taken over, so each part file has one writer (part.ts), and images are put in place whole.
 */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { codeOf } from './files.ts'
import { folders } from './names.ts'

export interface HeldLock extends AsyncDisposable {
  /** aborted when another process has taken the lock over, because this one stood still for too long */
  lost: AbortSignal
}

/** Undefined while another holds it. @throws errors of the file system */
export async function tryLock(dir: string, name: string, stale_ms: number): Promise<HeldLock | undefined> {
  const { lock } = await import('proper-lockfile')
  const lost = new AbortController()
  try {
    const release = await lock(join(folders(dir).locks, name), {
      realpath: false,
      stale: stale_ms,
      onCompromised: () => lost.abort(),
    })
    return { lost: lost.signal, [Symbol.asyncDispose]: () => release().catch(() => {}) } // lost: nothing to give back
  } catch (e) {
    if (codeOf(e) === 'ELOCKED') return undefined
    throw e
  }
}

/** Waits for a lock that is only ever held for a moment. */
export async function briefLock(dir: string, stale_ms: number): Promise<HeldLock> {
  for (;;) {
    const held = await tryLock(dir, 'cache', stale_ms)
    if (held) return held
    await sleep(20 + Math.random() * 60)
  }
}
