/**
 * Milliseconds since 1970 of an RFC 3339 time that matched the schema's pattern; NaN for a day that does not exist.
 * Date.parse alone turns 30 February into 2 March, and does not know a leap second.
 */
export function timeOf(text: string): number {
  const [, year, month, day] = /^(\d{4})-(\d\d)-(\d\d)/.exec(text) ?? []
  if (year === undefined || Number(day) > new Date(Date.UTC(Number(year), Number(month), 0)).getUTCDate())
    return Number.NaN
  return Date.parse(
    text
      .replace(/[t ]/, 'T')
      .replace(/z$/, 'Z')
      .replace(/(T\d\d:\d\d):60/, '$1:59'),
  )
}
