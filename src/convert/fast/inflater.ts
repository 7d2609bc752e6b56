import { constants, createInflate, inflateSync } from 'node:zlib'

/** Why a stream did not inflate; completes "the grain …: ". */
export class BadStream extends Error {}

/** Inflates a whole zlib stream of at most `max` bytes and checks its Adler-32. The result is valid until the next call. @throws {BadStream} */
export type Inflater = (stream: Buffer) => Buffer

/** What node:zlib keeps inside its streams since version 11; looked for before it is used. */
interface Handle {
  reset(): void
  writeSync(
    flush: number,
    input: Buffer,
    at: number,
    length: number,
    out: Buffer,
    outAt: number,
    outLength: number,
  ): void
  onerror: (message: string, errno: number, code: string) => void
}

/**
 * `inflateSync` makes a stream, a window and an output buffer for each call, which is a third of the time that a grain of 64 KiB takes
 * (measured: 200 µs against 145) and garbage of 64 KiB. So one stream is kept and reset; where Node's insides have changed, `inflateSync` does it.
 */
export function inflater(max: number): Inflater {
  return reused(max) ?? plain(max)
}

function reused(max: number): Inflater | undefined {
  const z = createInflate() as unknown as { _handle?: Handle; _writeState?: Uint32Array }
  const { _handle: handle, _writeState: left } = z
  if (typeof handle?.writeSync !== 'function' || typeof handle.reset !== 'function' || !(left instanceof Uint32Array)) {
    return undefined
  }
  // one byte more than allowed: a stream that fills it is too long, and one that does not has ended
  const out = Buffer.allocUnsafeSlow(max + 1)
  let failed: string | undefined
  handle.onerror = (message, _errno, code) => {
    failed = code === 'Z_BUF_ERROR' ? 'its stream is cut off' : `its stream is damaged (${message})`
  }
  return (stream) => {
    failed = undefined
    handle.reset()
    handle.writeSync(constants.Z_FINISH, stream, 0, stream.length, out, 0, out.length)
    if (failed !== undefined) throw new BadStream(failed)
    const length = out.length - left[0]!
    if (length > max) throw new BadStream(`it inflates beyond ${max} bytes`)
    return out.subarray(0, length)
  }
}

/** The same by the documented way. */
export function plain(max: number): Inflater {
  return (stream) => {
    try {
      return inflateSync(stream, { chunkSize: max, maxOutputLength: max })
    } catch (e) {
      const { code, message } = e as NodeJS.ErrnoException
      if (code === 'ERR_BUFFER_TOO_LARGE') throw new BadStream(`it inflates beyond ${max} bytes`)
      if (code === 'Z_BUF_ERROR') throw new BadStream('its stream is cut off')
      if (code === 'Z_DATA_ERROR' || code === 'Z_NEED_DICT') throw new BadStream(`its stream is damaged (${message})`)
      throw e
    }
  }
}
