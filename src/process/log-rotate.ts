/** Giving the live file of a log the next number. */
import { link, lstat, open, rename, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { isGone, listFiles, livePath, type LogFiles, plainPath, unlessGone } from './log-files.ts'
import { guardName, isHeld } from './log-guard.ts'

/**
 * Rotates, if there is something to rotate.
 * @returns the number; undefined when there was nothing, or another process is rotating: then look again
 */
export async function rotate(f: LogFiles): Promise<number | undefined> {
  const live = await unlessGone(lstat(livePath(f)))
  if (live === undefined || live.size === 0) return undefined
  const { taken, reserved } = await listFiles(f)
  if (reserved.includes(taken) && (await isBeingUsed(f, taken))) return undefined
  const n = taken + 1
  const guard = join(f.dir, guardName(f))
  try {
    if (!(await take(f, n, guard))) return undefined
    await rename(livePath(f), plainPath(f, n))
    return n
  } catch (error) {
    await unlink(plainPath(f, n)).catch(() => {}) // ours, and empty: nobody else renames onto it
    if (isGone(error)) return undefined
    throw error
  } finally {
    await unlink(guard).catch(() => {})
  }
}

/**
 * Whether who took the number is about to rename the live file onto it. A number that stays empty is nobody's: of a process that died, or of
 * one that renamed a new file onto which nobody had written yet.
 */
async function isBeingUsed(f: LogFiles, n: number): Promise<boolean> {
  const its = await unlessGone(lstat(plainPath(f, n)))
  return its !== undefined && its.size === 0 && (await isHeld(f, its))
}

async function take(f: LogFiles, n: number, guard: string): Promise<boolean> {
  const path = plainPath(f, n)
  try {
    await (await open(guard, 'wx', 0o600)).close()
    await link(guard, path)
  } catch (error) {
    const code = String((error as NodeJS.ErrnoException).code)
    if (code === 'EEXIST') return false
    // A file system without second names.
    if (!['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS'].includes(code)) throw error
    if (!(await takeAlone(path))) return false
  }
  // That there was no plain file does not say that the number was free: when it is compressed by now, it is there
  // compressed, or a higher one is.
  const { segments, taken } = await listFiles(f)
  if (taken === n && !segments.some((s) => s.n === n)) return true
  await unlink(path).catch(() => {})
  return false
}

async function takeAlone(path: string): Promise<boolean> {
  try {
    await (await open(path, 'wx', 0o600)).close()
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw error
  }
}
