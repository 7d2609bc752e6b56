/**
 * Who of several agents looks after the dead. Advisory: all could, and every rename has one winner; the election saves the
 * others the work. proper-lockfile suits that and nothing more: two can hold it at once after a stall.
 */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { errno } from '../process/errno.ts'
import { readOwners, type Spool } from '../spool/index.ts'

/** Rounds after which an agent that was never elected looks itself: the elected one may be stopped. */
const PATIENCE = 8

export function reaperElection(): (s: Spool, work: () => Promise<void>) => Promise<void> {
  let passedOver = 0
  return async (s, work) => {
    // Alone there is nobody to elect.
    if ((await readOwners(s)).length < 2) return work()
    const dir = join(s.layout.owners, '.reaper')
    await mkdir(dir, { recursive: true })
    const { lock } = await import('proper-lockfile')
    let release: () => Promise<void>
    try {
      release = await lock(dir, { realpath: false, stale: Math.max(5_000, s.leaseMs), onCompromised: () => {} })
    } catch (error) {
      // ENOENT: the lock went, by its holder or as a stale one, while proper-lockfile looked at it
      if (!['ELOCKED', 'ENOENT', 'ESTALE'].includes(errno(error))) throw error
      passedOver += 1
      if (passedOver < PATIENCE) return
      passedOver = 0
      return work()
    }
    passedOver = 0
    try {
      await work()
    } finally {
      await release().catch(() => {}) // taken from us meanwhile: no matter
    }
  }
}
