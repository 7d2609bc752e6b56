/** Sizes, durations and moments as people read them. */

/** Bytes as "1.5 GiB". */
export function bytes(n: number): string {
  if (n < 1024) return `${n} B`
  const units = ['KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB']
  let value = n
  let unit = -1
  do {
    value /= 1024
    unit++
  } while (value >= 1023.95 && unit < units.length - 1)
  return `${value.toFixed(value < 10 ? 1 : 0)} ${units[unit]}`
}

/** Milliseconds as "850 ms", "12 s", "3 min 5 s", "2 h 10 min", "4 d 3 h". */
export function duration(ms: number): string {
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`
  const s = Math.round(ms / 1000)
  if (s < 60) return `${s} s`
  const pair = (big: number, bigUnit: string, small: number, smallUnit: string): string =>
    small === 0 ? `${big} ${bigUnit}` : `${big} ${bigUnit} ${small} ${smallUnit}`
  if (s < 3600) return pair(Math.floor(s / 60), 'min', s % 60, 's')
  if (s < 86_400) return pair(Math.floor(s / 3600), 'h', Math.floor((s % 3600) / 60), 'min')
  return pair(Math.floor(s / 86_400), 'd', Math.floor((s % 86_400) / 3600), 'h')
}

/** How long ago a moment (RFC 3339) was. */
export function age(moment: string | undefined, now: number = Date.now()): string {
  if (moment === undefined) return '-'
  const then = Date.parse(moment)
  return Number.isNaN(then) ? '-' : duration(Math.max(0, now - then))
}
