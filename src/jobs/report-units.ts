/** Seconds with two decimals, as the pipeline report counts them. */
export function seconds(ms: number): number {
  return Math.round(ms / 10) / 100
}

/** Binary units, one decimal: "1.5 GiB". */
export function human(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']
  let n = bytes
  let u = 0
  while (n >= 1024 && u < units.length - 1) {
    n /= 1024
    u++
  }
  return `${u === 0 ? n : n.toFixed(1)} ${units[u]}`
}
