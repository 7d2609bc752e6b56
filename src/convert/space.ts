import { statfs } from 'node:fs/promises'
import { ImageError } from '../images/index.ts'

/** Bytes that this process may still write on the filesystem of `dir`. */
export async function freeBytes(dir: string): Promise<number> {
  const s = await statfs(dir)
  return (process.geteuid?.() === 0 ? s.bfree : s.bavail) * s.bsize
}

/** Bytes that may be written between two looks at the free space. */
const STRIDE = 256 * 1024 * 1024

/**
 * To be asked before each write of so many bytes. However fast somebody writes, the reserve stays untouched: half of what is free is the
 * most that is written unseen.
 */
export function spaceGate(dir: string, reserve: number, what: string): (bytes: number) => Promise<void> {
  let left = 0
  return async (bytes) => {
    left -= bytes
    if (left >= 0) return
    const free = await freeBytes(dir)
    if (free - bytes < reserve) {
      throw new ImageError(
        `The filesystem of ${dir} is nearly full: ${free} bytes are free and ${reserve} are kept in reserve. ${what} was stopped.`,
        { code: 'no-space', transient: true, phase: 'space', hint: 'Free space there; the job is tried again.' },
      )
    }
    left = Math.min(STRIDE, (free - bytes - reserve) / 2)
  }
}

/** @throws {ImageError} no-space, before a byte is written */
export async function requireSpace(dir: string, needed: number, reserve: number): Promise<number> {
  const free = await freeBytes(dir)
  if (free >= needed + reserve) return free
  throw new ImageError(
    `There is not enough space for the output: about ${needed} bytes are needed and ${reserve} are kept in reserve, but the filesystem of ${dir} has ${free} bytes free.`,
    {
      code: 'no-space',
      transient: true,
      phase: 'space',
      hint: 'Free space there or let the output lie elsewhere; the job is tried again.',
    },
  )
}
