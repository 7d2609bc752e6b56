/** The bytes of one part of a rotated log, plain or compressed. */
import { createReadStream } from 'node:fs'
import { open } from 'node:fs/promises'
import { pipeline } from 'node:stream'

const chunk = 64 * 1024

/**
 * The content from `offset` (in bytes of what is uncompressed) to the end, in pieces.
 * @throws what open(2) and read(2) throw, and Z_… for a compressed part that is damaged
 */
export async function* partBytes(part: { path: string; gz: boolean }, offset = 0): AsyncGenerator<Buffer> {
  if (part.gz) {
    const { createGunzip } = await import('node:zlib')
    const gunzip = createGunzip({ chunkSize: chunk })
    pipeline(createReadStream(part.path), gunzip, () => {})
    let skip = offset
    for await (const piece of gunzip as AsyncIterable<Buffer>) {
      const rest = skip === 0 ? piece : piece.subarray(skip)
      skip = Math.max(0, skip - piece.length)
      if (rest.length > 0) yield rest
    }
    return
  }
  const file = await open(part.path, 'r')
  try {
    for (let at = offset; ; ) {
      const buffer = Buffer.allocUnsafe(chunk)
      const { bytesRead } = await file.read(buffer, 0, chunk, at)
      if (bytesRead === 0) return
      at += bytesRead
      yield buffer.subarray(0, bytesRead)
    }
  } finally {
    await file.close()
  }
}

/** Uncompressed size, modulo 2^32, of a part that was compressed in one piece: the last field of RFC 1952. */
export async function gunzippedSize(path: string): Promise<number> {
  const file = await open(path, 'r')
  try {
    const { size } = await file.stat()
    const last = Buffer.alloc(4)
    await file.read(last, 0, 4, Math.max(0, size - 4))
    return last.readUInt32LE(0)
  } finally {
    await file.close()
  }
}
