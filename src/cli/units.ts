/** Sizes, durations and moments as people read and write them. */
import { InvalidArgumentError } from 'commander'
import { durationHint, parseDuration as durationOf } from '../text/units.ts'

export { age, bytes, duration } from '../text/people.ts'

export function parseCount(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError(`"${text}" is no whole number.`)
  return Number(text)
}

/** For options: "90", "90s", "5m", "2h", "1d", "500ms" → milliseconds; a bare number is seconds, as in manifests. */
export function parseDuration(text: string): number {
  const ms = durationOf(/^\d+(\.\d+)?$/.test(text.trim()) ? Number(text) : text)
  if (ms === undefined) throw new InvalidArgumentError(`"${text}" is no duration. Write ${durationHint}.`)
  return ms
}
