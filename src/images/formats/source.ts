/**
 * What a header parser reads from: a bounded run of bytes, wherever it lies (a file, a member of a tar, a buffer).
 * Reads beyond the end come back short, so that each parser says itself what is missing.
 */
export interface ByteSource {
  /** length in bytes */
  readonly size: number
  /** At most `length` bytes from `offset`; fewer at the end. Never throws for an offset beyond the end. */
  read(offset: number, length: number): Promise<Buffer>
  /** As `read`, into the caller's buffer: gives the bytes read. For reading much, where a new buffer each time is garbage that piles up. */
  readInto?(offset: number, into: Buffer): Promise<number>
}

/** Why an image was not accepted. `code` is short and stable; the message is a full sentence. */
export class FormatError extends Error {
  readonly code: string
  constructor(code: string, message: string) {
    super(message)
    this.name = 'FormatError'
    this.code = code
  }
}

/** A source over bytes in memory. */
export function bufferSource(bytes: Buffer): ByteSource {
  return {
    size: bytes.length,
    read: async (offset, length) => bytes.subarray(clamp(offset, bytes.length), clamp(offset + length, bytes.length)),
  }
}

/** A window of another source, e.g. a member of a tar. */
export function windowOf(source: ByteSource, offset: number, size: number): ByteSource {
  const end = Math.min(source.size, offset + size)
  const length = Math.max(0, end - offset)
  const window: ByteSource = {
    size: length,
    read: (at, n) => {
      const from = clamp(at, length)
      return source.read(offset + from, clamp(at + n, length) - from)
    },
  }
  if (source.readInto) {
    window.readInto = (at, into) => {
      const from = clamp(at, length)
      return source.readInto!(offset + from, into.subarray(0, clamp(at + into.length, length) - from))
    }
  }
  return window
}

function clamp(n: number, max: number): number {
  return Math.min(Math.max(n, 0), max)
}

/** Reads exactly `length` bytes or throws `truncated`. `what` completes "The file ends before …". */
export async function readExactly(source: ByteSource, offset: number, length: number, what: string): Promise<Buffer> {
  const bytes = Number.isSafeInteger(offset) && offset >= 0 ? await source.read(offset, length) : Buffer.alloc(0)
  if (bytes.length < length) throw tooShort(source, offset, length, what)
  return bytes
}

/** `what` completes "The file ends before …". */
export function tooShort(source: ByteSource, offset: number, length: number, what: string): FormatError {
  return new FormatError(
    'truncated',
    `The file ends before ${what}: ${length} bytes are needed at offset ${offset}, but the file has ${source.size} bytes.`,
  )
}

/** A u64 as a number, or undefined above 2^53 (nothing that large can be meant). */
function u64(n: bigint): number | undefined {
  return n <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(n) : undefined
}

/** As {@link u64}, but a number that is too large is an error that names the field. */
export function size64(n: bigint, field: string): number {
  const v = u64(n)
  if (v === undefined)
    throw new FormatError('absurd-size', `The header's ${field} is ${n}, which is beyond any real disk.`)
  return v
}
