import { isUtf8 } from 'node:buffer'

export type Decoded =
  | { state: 'complete' | 'cut' /* ends inside a character */; text: string }
  | { state: 'invalid'; offset: number; text: string /* what stands before */; message: string }

/** Strict UTF-8, byte order mark dropped. A character cut off by the end is told apart from a wrong one: the file may still be growing. */
export function decodeUtf8(bytes: Uint8Array): Decoded {
  if (bytes.length >= 2 && ((bytes[0] === 0xff && bytes[1] === 0xfe) || (bytes[0] === 0xfe && bytes[1] === 0xff)))
    return { state: 'invalid', offset: 0, text: '', message: 'The file is UTF-16; save it as UTF-8.' }
  if (isUtf8(bytes)) return { state: 'complete', text: new TextDecoder().decode(bytes) }
  try {
    return { state: 'cut', text: new TextDecoder('utf-8', { fatal: true }).decode(bytes, { stream: true }) }
  } catch {
    const offset = firstBad(bytes)
    const byte = bytes[offset]!.toString(16).padStart(2, '0')
    return {
      state: 'invalid',
      offset,
      text: new TextDecoder().decode(bytes.subarray(0, offset)),
      message: `The byte 0x${byte} at offset ${offset} is not valid UTF-8; save the file as UTF-8.`,
    }
  }
}

/** The longest valid prefix, found by halving: isUtf8 is fast, and a prefix that ends inside a character counts as valid. */
function firstBad(bytes: Uint8Array): number {
  const good = (n: number) => {
    for (let back = 0; back <= 3 && back <= n; back++) if (isUtf8(bytes.subarray(0, n - back))) return n - back
    return -1
  }
  let low = 0
  let high = bytes.length
  while (low < high) {
    const mid = (low + high + 1) >> 1
    if (good(mid) >= 0) low = mid
    else high = mid - 1
  }
  return Math.min(Math.max(0, good(low)), bytes.length - 1)
}
