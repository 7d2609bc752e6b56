/**
 * SHA-256 (FIPS 180-4) of short texts, in plain JavaScript. Loading node:crypto for one takes 9 ms, a third of all that `vmspool run`
 * does and a hundred times what this takes; whatever hashes files uses node:crypto.
 */

/** The first 32 bits of the fractional parts of the n-th roots of the first primes (FIPS 180-4, 4.2.2 and 5.3.3). */
function fractions(count: number, root: 2 | 3): Uint32Array {
  const out = new Uint32Array(count)
  for (let n = 2, i = 0; i < count; n++) {
    let prime = true
    for (let d = 2; d * d <= n; d++) if (n % d === 0) prime = false
    if (prime) out[i++] = (root === 2 ? Math.sqrt(n) : Math.cbrt(n)) * 2 ** 32
  }
  return out
}
const K = fractions(64, 3)
const START = fractions(8, 2)

/** The hash of a text's UTF-8, as 64 hexadecimal digits. */
export function sha256Hex(text: string): string {
  const input = new TextEncoder().encode(text)
  const padded = new Uint8Array(((input.length + 8) >> 6) * 64 + 64)
  padded.set(input)
  padded[input.length] = 0x80
  const view = new DataView(padded.buffer)
  view.setBigUint64(padded.length - 8, BigInt(input.length) * 8n)
  const hash = START.slice()
  const w = new Uint32Array(64)
  for (let block = 0; block < padded.length; block += 64) {
    for (let i = 0; i < 16; i++) w[i] = view.getUint32(block + 4 * i)
    for (let i = 16; i < 64; i++) {
      const a = w[i - 15]!
      const b = w[i - 2]!
      const s0 = turn(a, 7) ^ turn(a, 18) ^ (a >>> 3)
      const s1 = turn(b, 17) ^ turn(b, 19) ^ (b >>> 10)
      w[i] = w[i - 16]! + s0 + w[i - 7]! + s1
    }
    mix(hash, w)
  }
  return [...hash].map((x) => x.toString(16).padStart(8, '0')).join('')
}

function turn(x: number, by: number): number {
  return (x >>> by) | (x << (32 - by))
}

function mix(hash: Uint32Array, w: Uint32Array): void {
  let [a, b, c, d, e, f, g, h] = hash as unknown as [number, number, number, number, number, number, number, number]
  for (let i = 0; i < 64; i++) {
    const t1 = (h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + K[i]! + w[i]!) | 0
    const t2 = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0
    h = g
    g = f
    f = e
    e = (d + t1) | 0
    d = c
    c = b
    b = a
    a = (t1 + t2) | 0
  }
  for (const [i, x] of [a, b, c, d, e, f, g, h].entries()) hash[i] = hash[i]! + x
}
