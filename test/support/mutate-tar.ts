/** Mutations of archives that get past their checksums, repeatable by a seed. */

/** mulberry32: a seed is enough to repeat a run */
export function generator(seed: number): (below: number) => number {
  let a = seed >>> 0
  return (below) => {
    a = (a + 0x6d2b79f5) >>> 0
    let t = Math.imul(a ^ (a >>> 15), 1 | a)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) % below
  }
}
export type Random = ReturnType<typeof generator>
export const pick = <T>(next: Random, of: readonly T[]): T => of[next(of.length)]!

const FIELDS: [number, number][] = [
  [0, 100],
  [100, 8],
  [124, 12],
  [124, 12],
  [148, 8],
  [156, 1],
  [156, 1],
  [157, 100],
  [257, 8],
  [345, 155],
]
const VALUES = [
  '',
  '\0',
  '0',
  '7',
  '00000000000\0',
  '77777777777\0',
  '-0000000001\0',
  '99999999999\0',
  '\x80\0\0\0\0\0\0\0\0\0\x02\0',
  '\x80\0\0\0\0\x04\0\0\0\0\0\0',
  '\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff',
  'd1.vmdk\0',
  'vm.ovf\0',
  '../../etc/passwd\0',
  '/etc/passwd\0',
  'ustar\0',
  'x',
  'L',
  'g',
  'K',
  'S',
  '1',
  '2',
  '5',
]

export function mutateTar(original: Buffer, next: Random): Buffer {
  let b = Buffer.from(original)
  for (let times = 1 + next(3); times > 0; times--) {
    const how = next(10)
    const block = next(Math.max(1, b.length >> 9)) * 512
    if (how < 5) {
      const [at, length] = pick(next, FIELDS)
      const value = next(3) === 0 ? Buffer.from([next(256)]) : Buffer.from(pick(next, VALUES), 'latin1')
      value.copy(b, block + at + (next(4) === 0 ? next(length) : 0), 0, length)
      // most readers stop at a wrong sum: behind it lies what is to be tested
      if (next(4) > 0 && block + 512 <= b.length) fixSum(b.subarray(block, block + 512))
    } else if (how === 5) b = b.subarray(0, next(b.length))
    else if (how === 6) b.copy(b, block, next(b.length >> 9) * 512, (next(b.length >> 9) + 1) * 512)
    else if (how === 7) b = Buffer.concat([b.subarray(0, block), b.subarray(block + 512)])
    else if (how === 8) b = Buffer.concat([b.subarray(0, block), b.subarray(next(b.length >> 9) * 512)])
    else b[next(b.length)] = next(256)
    if (b.length < 512) return b
  }
  return b
}

function fixSum(h: Buffer): void {
  h.fill(' ', 148, 156)
  h.write(
    `${h
      .reduce((n, x) => n + x, 0)
      .toString(8)
      .padStart(6, '0')}\0 `,
    148,
    'latin1',
  )
}
