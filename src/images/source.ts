import type { FileHandle } from 'node:fs/promises'
import type { ByteSource } from './formats/source.ts'

/** A window of an open file as a source for the header parsers. */
export function fileSource(handle: FileHandle, size: number, offset = 0): ByteSource {
  return {
    size,
    read: async (at, length) => {
      const n = Math.max(0, Math.min(length, size - at))
      if (n === 0 || at < 0) return Buffer.alloc(0)
      const buffer = Buffer.alloc(n)
      let done = 0
      while (done < n) {
        const { bytesRead } = await handle.read(buffer, done, n - done, offset + at + done)
        if (bytesRead === 0) break
        done += bytesRead
      }
      return buffer.subarray(0, done)
    },
  }
}
