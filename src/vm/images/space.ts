import { statfs } from 'node:fs/promises'
import { bytes as text } from '../../text/people.ts'
import { VmError } from '../types.ts'

/** Bytes that may be written between two looks at the free space. */
const STRIDE = 64 * 1024 * 1024

export interface SpaceGate {
  /** before the first byte */
  need(bytes: number): Promise<void>
  /** before each write of so many bytes */
  pass(bytes: number): Promise<void>
}

/**
 * @param makeRoom tries to free so many bytes, from what the cache could do without
 */
export function spaceGate(dir: string, reserve: number, makeRoom: (bytes: number) => Promise<void>): SpaceGate {
  const need = async (bytes: number): Promise<number> => {
    const before = await free(dir)
    if (before >= bytes + reserve) return before
    await makeRoom(bytes + reserve - before)
    const after = await free(dir)
    if (after >= bytes + reserve) return after
    throw new VmError(
      `There is not enough space for the image: ${text(bytes)} are needed${reserve > 0 ? ` and ${text(reserve)} are kept in reserve` : ''}, but the file system of ${dir} has ${text(after)} free.`,
      {
        code: 'storage',
        transient: true,
        hint: 'Free space there, remove images with "vmspool image rm", or let images.dir lie elsewhere. What was downloaded so far is kept.',
      },
    )
  }
  let left = 0
  return {
    need: async (bytes) => void (await need(bytes)),
    pass: async (bytes) => {
      left -= bytes
      if (left >= 0) return
      const at = await need(bytes)
      left = Math.min(STRIDE, (at - bytes - reserve) / 2)
    },
  }
}

async function free(dir: string): Promise<number> {
  const s = await statfs(dir)
  return (process.geteuid?.() === 0 ? s.bfree : s.bavail) * s.bsize
}
