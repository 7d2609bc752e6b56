/** A seeded generator (mulberry32): one seed, one run. */
export interface Random {
  (): number
  int(n: number): number
  chance(p: number): boolean
  pick<T>(list: readonly T[]): T
  bytes(n: number): Uint8Array
}

export function seeded(seed: number): Random {
  let a = (seed * 0x9e3779b9 + 0x7f4a7c15) >>> 0
  const next = () => {
    a = (a + 0x6d2b79f5) >>> 0
    let t = a
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
  return Object.assign(next, {
    int: (n: number) => Math.floor(next() * n),
    chance: (p: number) => p > 0 && next() < p,
    pick: <T>(list: readonly T[]) => list[Math.floor(next() * list.length)]!,
    bytes: (n: number) => Uint8Array.from({ length: n }, () => Math.floor(next() * 256)),
  })
}
