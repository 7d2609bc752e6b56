/** Moving in a text that is longer than the screen. */
import type { Binding } from './screen.ts'

export interface Scroll {
  /** the first line that is seen, for so many lines of text on so many rows; `end`: the last ones are */
  top(lines: number, rows: number, end?: boolean): number
  /** so many lines went away at the beginning */
  shift(lines: number): void
  to(line: number): void
  bindings: readonly Binding[]
}

export function scroll(o: { changed(): void; moved?(): void }): Scroll {
  let at = 0
  let rows = 1
  let last = 0
  const to = (line: number): void => {
    at = Math.min(Math.max(0, line), last)
    o.moved?.()
    o.changed()
  }
  return {
    top(lines, n, end) {
      rows = Math.max(1, n)
      last = Math.max(0, lines - rows)
      at = end ? last : Math.min(at, last)
      return at
    },
    shift(lines) {
      at = Math.max(0, at - lines)
    },
    to,
    bindings: [
      { keys: ['j', 'down'], what: 'a line down', run: () => to(at + 1) },
      { keys: ['k', 'up'], what: 'a line up', run: () => to(at - 1) },
      { keys: ['g', 'home'], what: 'to the beginning', run: () => to(0) },
      { keys: ['G', 'end'], what: 'to the end', run: () => to(last) },
      { keys: ['ctrl+d', 'pagedown'], what: 'a page down', run: () => to(at + rows) },
      { keys: ['ctrl+u', 'pageup'], what: 'a page up', run: () => to(at - rows) },
    ],
  }
}
