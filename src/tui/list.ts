/**
 * Moving in a list. What is selected is an id, not a row: rows come and go above it, and a key must never hit another job than the
 * one that was looked at.
 */
import type { Binding, Search } from './screen.ts'

export interface ListControl {
  selected(): string | undefined
  select(id: string): void
  /** the rows that are seen, for so many rows; moves what is shown so that the selected one is among them */
  window(rows: number): { from: number; ids: readonly string[]; selected: number }
  bindings: readonly Binding[]
  search: Search
}

export interface ListSource {
  /** in the order of the screen; the same array as long as nothing changed */
  ids(): readonly string[]
  /** what a search looks at, in lower case */
  textOf(id: string): string
  changed(): void
}

export function listControl(source: ListSource): ListControl {
  let current: string | undefined
  /** where it was last seen: when it is gone, its neighbour is selected */
  let index = 0
  let top = 0
  let rows = 1
  let origin: { id: string | undefined; top: number } = { id: undefined, top: 0 }
  let known: readonly string[] = []
  let places: Map<string, number> | undefined

  function locate(): number {
    const ids = source.ids()
    if (ids !== known) {
      known = ids
      places = undefined
    }
    if (ids.length === 0) {
      index = 0
      top = 0
      return -1
    }
    if (current !== undefined && ids[index] !== current) {
      places ??= new Map(ids.map((id, i) => [id, i]))
      const now = places.get(current)
      if (now !== undefined) {
        // Rows that came above it move the window along, unless it shows the top.
        if (top > 0) top += now - index
        index = now
      } else current = undefined
    }
    index = Math.min(Math.max(0, index), ids.length - 1)
    current ??= ids[index]!
    return index
  }

  function to(i: number): void {
    const ids = source.ids()
    if (ids.length === 0) return
    index = Math.min(Math.max(0, i), ids.length - 1)
    current = ids[index]!
    source.changed()
  }
  const by = (n: number) => () => {
    locate()
    to(index + n)
  }

  return {
    selected() {
      return locate() === -1 ? undefined : current
    },
    select(id) {
      current = id
      locate()
      source.changed()
    },
    window(n) {
      rows = Math.max(1, n)
      const at = locate()
      const ids = source.ids()
      top = Math.min(top, Math.max(0, ids.length - rows))
      if (at < top) top = Math.max(0, at)
      if (at >= top + rows) top = at - rows + 1
      top = Math.max(0, top)
      return { from: top, ids: ids.slice(top, top + Math.max(0, n)), selected: at }
    },
    bindings: [
      { keys: ['j', 'down'], what: 'down', run: by(1) },
      { keys: ['k', 'up'], what: 'up', run: by(-1) },
      { keys: ['g', 'home'], what: 'to the first', run: () => to(0) },
      { keys: ['G', 'end'], what: 'to the last', run: () => to(source.ids().length - 1) },
      { keys: ['ctrl+d', 'pagedown'], what: 'a page down', run: () => by(rows)() },
      { keys: ['ctrl+u', 'pageup'], what: 'a page up', run: () => by(-rows)() },
    ],
    search: {
      begin() {
        locate()
        origin = { id: current, top }
      },
      cancel() {
        if (origin.id !== undefined) current = origin.id
        locate()
        top = origin.top
        source.changed()
      },
      find(text, o) {
        const ids = source.ids()
        const wanted = text.toLowerCase()
        if (ids.length === 0 || wanted === '') return false
        if (o.from === 'origin' && origin.id !== undefined) current = origin.id
        locate()
        const step = o.forward ? 1 : -1
        const first = o.from === 'origin' ? 0 : step
        for (let n = 0; n < ids.length; n++) {
          const i = (((index + first + n * step) % ids.length) + ids.length) % ids.length
          if (!source.textOf(ids[i]!).includes(wanted)) continue
          to(i)
          return true
        }
        return false
      },
    },
  }
}
