/** What a line of the table of settings is. */
import type { Reader } from './readers.ts'

export interface Setting<T> {
  reader: Reader<NonNullable<T>>
  /** As it would be written in a file; undefined when there is none. */
  standard: unknown
  doc: string
  /** HUP may change it in a running agent. */
  reload?: true
  /** Accepted today, acted on by a later version; set to something else it is a warning. */
  later?: string
}

export const second = 1000
export const minute = 60 * second
export const day = 24 * 60 * minute
export const years = 3650 * day

export const set = <T>(
  reader: Reader<NonNullable<T>>,
  standard: unknown,
  doc: string,
  more: Omit<Setting<T>, 'reader' | 'standard' | 'doc'> = {},
): Setting<T> => ({
  reader,
  standard,
  doc,
  ...more,
})
export const live = { reload: true } as const
export const poolLater = { later: 'importing disks into a storage pool' } as const
export const noteLater = { later: 'notifications' } as const
