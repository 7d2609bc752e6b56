/** The second names under which appenders have the live file of a log while they write to it, and who rotates the number it has taken. */
import { randomBytes } from 'node:crypto'
import { lstat, readdir, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { bootId, pidNamespace } from './identity.ts'
import { type LogFiles, unlessGone } from './log-files.ts'

/** What another process left when it died between two steps is taken for that after so long, in ms. */
export const staleMs = 10_000

/** `.log.w-<ms since 1970>-<pid>-<boot and pid namespace>-<random>` */
export function guardName(f: LogFiles): string {
  return `.${f.before}w-${Date.now()}-${process.pid}-${here()}-${randomBytes(4).toString('hex')}`
}

let hereCache: string | undefined
/** Where our pids mean something. */
function here(): string {
  hereCache ??= `${bootId().slice(0, 8)}.${pidNamespace()}`
  return hereCache
}

/** @returns undefined when this is no such name */
export function guardOf(f: LogFiles, name: string): { since: number; alive: boolean } | undefined {
  if (!name.startsWith(`.${f.before}w-`)) return undefined
  const [since, pid, where] = name.slice(f.before.length + 3).split('-')
  return { since: Number(since), alive: where !== here() || lives(Number(pid)) }
}

/** Whether there is a process of that number here. */
export function lives(pid: number): boolean {
  try {
    return pid > 0 && process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** Whether a live process has a second name for this file. The names of dead ones are removed: at once when that can be seen, else after 10 s. */
export async function isHeld(f: LogFiles, file: { nlink: number; ino: number }): Promise<boolean> {
  if (file.nlink <= 1) return false
  let held = false
  for (const name of (await unlessGone(readdir(f.dir))) ?? []) {
    const guard = guardOf(f, name)
    if (guard === undefined) continue
    const path = join(f.dir, name)
    if ((await unlessGone(lstat(path)))?.ino !== file.ino) continue
    if (guard.alive && Math.abs(Date.now() - guard.since) < staleMs) held = true
    else await unlessGone(unlink(path))
  }
  return held // any other second name is none of ours: somebody's backup
}

/**
 * Waits until nobody can append to a file that was rotated: until no appender has a second name for it.
 * @param look the file's link count and identity, now
 */
export async function sealed(f: LogFiles, look: () => Promise<{ nlink: number; ino: number }>): Promise<void> {
  while (await isHeld(f, await look())) await sleep(5)
}
