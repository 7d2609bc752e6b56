/** What reading a JSON or YAML text yields: data, the place of each value, and what is wrong short of a syntax error. */

export interface Limits {
  /** Nesting beyond this is refused. */
  depth: number
  /** More values than this (aliases expanded) are refused. */
  values: number
}

/** A manifest of a thousand disks with everything said about them has some 12 000 values. */
export const defaultLimits: Limits = { depth: 64, values: 20_000 }

/** Offsets of a member: of its key (of the value in a list) and of its value. */
type Place = readonly [key: number, value: number]
export type Places = WeakMap<object, Map<string | number, Place>>

export interface Problem {
  offset: number
  path: (string | number)[]
  message: string
  severity: 'error' | 'warning'
}

export type Reading =
  | {
      state: 'complete'
      value: Record<string, unknown>
      places: Places
      problems: Problem[]
      /** YAML: the text of a scalar that was read as a number or a boolean (`1.0`, `0012`), for fields that are strings. */
      written?: WeakMap<object, Map<string | number, string>>
    }
  | { state: 'incomplete'; offset: number; message: string }
  | { state: 'invalid'; offset: number; message: string; partial?: Record<string, unknown> }

export const protoMessage =
  'The key "__proto__" is refused: it names the inner machinery of the program that reads it, never data.'

/** Line and column (from 1, columns in UTF-16 units) of offsets in a text; `\n`, `\r\n` and a lone `\r` end a line. */
export function lineCounter(text: string): (offset: number) => { line: number; column: number } {
  let starts: number[] | undefined
  return (offset) => {
    if (starts === undefined) {
      starts = [0]
      for (let i = 0; i < text.length; i++) {
        const c = text.charCodeAt(i)
        if (c === 10 || (c === 13 && text.charCodeAt(i + 1) !== 10)) starts.push(i + 1)
      }
    }
    let low = 0
    let high = starts.length - 1
    while (low < high) {
      const mid = (low + high + 1) >> 1
      if (starts[mid]! <= offset) low = mid
      else high = mid - 1
    }
    return { line: low + 1, column: offset - starts[low]! + 1 }
  }
}

/** The offset to show for a path: of the value (or of its key), else of the nearest thing around it that is there. */
export function offsetOf(
  root: object,
  places: Places,
  path: readonly (string | number)[],
  part: 'key' | 'value' = 'value',
): number | undefined {
  let holder: unknown = root
  let found: number | undefined
  for (const step of path) {
    if (holder === null || typeof holder !== 'object') return found
    const place = places.get(holder)?.get(step)
    if (place === undefined) return found
    found = part === 'key' ? place[0] : place[1]
    holder = (holder as Record<string | number, unknown>)[step]
  }
  return found
}
