/** Optimal string alignment distance (insert, delete, replace, swap neighbours), cut off at `limit`. */
function distance(a: string, b: string, limit: number): number {
  if (Math.abs(a.length - b.length) > limit) return limit + 1
  let before: number[] = []
  let last = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1]
      let d = Math.min(last[j]! + 1, row[j - 1]! + 1, last[j - 1]! + (same ? 0 : 1))
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) d = Math.min(d, before[j - 2]! + 1)
      row.push(d)
    }
    before = last
    last = row
  }
  return last[b.length]!
}

const plain = (s: string) => s.replaceAll(/[-_\s.]/g, '').toLowerCase()

/**
 * Did you mean? The candidate that `word` most probably stands for, or undefined when none is near: equal but for
 * case, dashes and underscores (`vmName`, `VM-NAME`), else at most a third of the letters wrong.
 */
export function nearest(word: string, candidates: Iterable<string>): string | undefined {
  if (word === '' || word.length > 64) return undefined
  const w = plain(word)
  if (w === '') return undefined
  const limit = Math.min(3, Math.max(1, Math.floor(w.length / 3)))
  let best: string | undefined
  let bestDistance = limit + 1
  for (const candidate of candidates) {
    const c = plain(candidate)
    const d = c === w ? 0 : distance(w, c, limit)
    if (d < bestDistance) {
      best = candidate
      bestDistance = d
    }
  }
  return best === word ? undefined : best
}
