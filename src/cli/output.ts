/** Printing, and the option that says in which format. */
import { Option } from 'commander'
import type { Format } from './print.ts'

export * from './print.ts'

export function formatOption(
  formats: readonly Format[] = ['table', 'json', 'yaml', 'name'],
  initial: Format = 'table',
): Option {
  return new Option('-o, --output <format>', 'how to print').choices([...formats]).default(initial)
}
