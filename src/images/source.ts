import type { FileHandle } from 'node:fs/promises'
import type { ByteSource } from './formats/source.ts'

/** A window of an open file as a source for the header parsers. */
export function fileSource(handle: FileHandle, size: number, offset = 0): ByteSource {
  const readInto = async (at: number, into: Buffer): Promise<number> => {
    const n = at < 0 ? 0 : Math.max(0, Math.min(into.length, size - at))
    let done = 0
    while (done < n) {
      const { bytesRead } = await handle.read(into, done, n - done, offset + at + done)
      if (bytesRead === 0) break
      done += bytesRead
    }
    return done
  }
  return {
    size,
    read: async (at, length) => {
      const n = at < 0 ? 0 : Math.max(0, Math.min(length, size - at))
      const buffer = Buffer.alloc(n)
      return buffer.subarray(0, await readInto(at, buffer))
    },
    readInto,
  }
}
