import { statfs } from 'node:fs/promises'
import { ImageError } from '../images/index.ts'

/** Bytes that this process may still write on the filesystem of `dir`. */
export async function freeBytes(dir: string): Promise<number> {
  const s = await statfs(dir)
  return (process.geteuid?.() === 0 ? s.bfree : s.bavail) * s.bsize
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
