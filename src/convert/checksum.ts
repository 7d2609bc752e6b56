import { createHash } from 'node:crypto'
import type { FileHandle } from 'node:fs/promises'

const CHUNK = 4 * 1024 * 1024

/** Hash of a window of an open file, in hex. @throws the signal's reason */
export async function hashWindow(
  handle: FileHandle,
  o: { offset: number; size: number; algorithm: string; signal: AbortSignal; onBytes?(done: number): void },
): Promise<string> {
  const hash = createHash(o.algorithm)
  const buffer = Buffer.allocUnsafe(Math.min(CHUNK, Math.max(1, o.size)))
  let done = 0
  while (done < o.size) {
    o.signal.throwIfAborted()
    const { bytesRead } = await handle.read(buffer, 0, Math.min(buffer.length, o.size - done), o.offset + done)
    if (bytesRead === 0) break // shorter than it was: the hash will not match
    hash.update(buffer.subarray(0, bytesRead))
    done += bytesRead
    o.onBytes?.(done)
  }
  return hash.digest('hex')
}
