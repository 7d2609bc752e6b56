import { createHash } from 'node:crypto'
import type { FileHandle } from 'node:fs/promises'

const CHUNK = 256 * 1024

/** Hashes of a whole open file, in hex. @throws errors of reading; the signal's reason */
export async function hashes<A extends string>(
  h: FileHandle,
  algorithms: readonly A[],
  o: { signal?: AbortSignal; onBytes?(done: number): void } = {},
): Promise<Record<A, string>> {
  const all = algorithms.map((a) => [a, createHash(a)] as const)
  const buffer = Buffer.allocUnsafe(CHUNK)
  let done = 0
  for (;;) {
    o.signal?.throwIfAborted()
    const { bytesRead } = await h.read(buffer, 0, CHUNK, done)
    if (bytesRead === 0) break
    const piece = buffer.subarray(0, bytesRead)
    for (const [, hash] of all) hash.update(piece)
    done += bytesRead
    o.onBytes?.(done)
  }
  return Object.fromEntries(all.map(([a, hash]) => [a, hash.digest('hex')])) as Record<A, string>
}
