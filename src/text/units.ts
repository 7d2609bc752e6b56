const durationUnits: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 }

/** For schemas: what a duration looks like when it is written as text. */
export const durationPattern =
  /^(?:\d{1,15}(?:\.\d{1,9})?(?:ms|s|m|h|d|w)?)(?:\s*\d{1,15}(?:\.\d{1,9})?(?:ms|s|m|h|d|w))*$/

export const durationHint = 'a number of seconds or text such as "90s", "5m", "2h" or "1h30m"'

/** A number of seconds, or `90s`, `5m`, `2h`, `1h30m`, `250ms`, `7d` → milliseconds; undefined when it is neither. */
export function parseDuration(value: unknown): number | undefined {
  if (typeof value === 'number') return whole(value * 1000)
  if (typeof value !== 'string') return undefined
  const text = value.trim()
  if (!durationPattern.test(text)) return undefined
  let total = 0
  for (const [, amount, unit] of text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h|d|w)?/g))
    total += Number(amount) * durationUnits[unit ?? 's']!
  return whole(total)
}

const sizeUnits: Record<string, number> = {
  '': 1,
  k: 2 ** 10,
  m: 2 ** 20,
  g: 2 ** 30,
  t: 2 ** 40,
  p: 2 ** 50,
}

/** For schemas: what a size looks like when it is written as text. */
export const sizePattern = /^\d{1,15}(?:\.\d{1,9})?\s*(?:[kKmMgGtTpP]?(?:i?[bB])?)$/

export const sizeHint = 'a number of bytes or text such as "512M", "20GiB" or "64T" (powers of 1024)'

/** A number of bytes, or `512M`, `20GiB`, `64T` (powers of 1024 as qemu-img reads them) → bytes; undefined when it is neither. */
export function parseSize(value: unknown): number | undefined {
  if (typeof value === 'number') return Number.isInteger(value) ? whole(value) : undefined
  if (typeof value !== 'string') return undefined
  const text = value.trim()
  if (!sizePattern.test(text)) return undefined
  const [, amount, unit] = /^(\d+(?:\.\d+)?)\s*([kmgtp]?)/i.exec(text)!
  return whole(Number(amount) * sizeUnits[unit!.toLowerCase()]!)
}

function whole(n: number): number | undefined {
  const rounded = Math.round(n)
  return rounded >= 0 && Number.isSafeInteger(rounded) ? rounded : undefined
}

/** Milliseconds for people: `90000` → `1m30s`. */
export function durationText(ms: number): string {
  if (ms < 1000) return `${ms}ms`
  let rest = ms
  let text = ''
  for (const unit of ['d', 'h', 'm', 's'] as const) {
    const n = unit === 's' ? rest / 1000 : Math.floor(rest / durationUnits[unit]!)
    if (n > 0) text += `${n}${unit}`
    rest -= n * durationUnits[unit]!
  }
  return text
}
