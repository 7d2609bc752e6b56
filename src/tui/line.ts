/** A line of the screen: pieces of text with a colour each. What is painted also says what it means in words. */
import { type Paint, painted } from '../text/paint.ts'
import { cell, harmless, slice, width } from '../text/width.ts'
import type { Glyphs } from './glyphs.ts'

export interface Span {
  text: string
  paint?: Paint | undefined
}

/** Nothing in it but what a terminal shows one cell after the other; not wider than the screen once it was fitted. */
export type Line = readonly Span[]

/** A line of one piece; whatever stands in the text, it comes out as one line of harmless characters. */
export function line(text: string, paint?: Paint): Line {
  return [{ text: harmless(text), paint }]
}

function lineWidth(l: Line): number {
  return l.reduce((n, s) => n + width(s.text), 0)
}

/** The line in exactly so many cells. */
export function fitLine(l: Line, cells: number, glyphs: Glyphs): Line {
  const w = lineWidth(l)
  if (w <= cells) return w === cells ? l : [...l, { text: ' '.repeat(cells - w) }]
  const out: Span[] = []
  let left = cells
  for (const s of l) {
    const w = width(s.text)
    // The piece that holds the last cell is cut, though it may fit: something is cut behind it.
    if (w < left) {
      out.push(s)
      left -= w
      continue
    }
    out.push({ ...s, text: w === left ? cutOff(s.text, left, glyphs) : cell(s.text, left, glyphs) })
    break
  }
  return out
}

function cutOff(text: string, cells: number, glyphs: Glyphs): string {
  const kept = slice(text, 0, cells - 1)
  return kept + ' '.repeat(cells - 1 - width(kept)) + glyphs.ellipsis
}

/** One line from a left and a right part; the right one gives way. */
export function spread(left: Line, right: Line, cells: number, glyphs: Glyphs): Line {
  const room = cells - lineWidth(left) - 2
  if (room < 8) return fitLine(left, cells, glyphs)
  const w = lineWidth(right)
  if (w > room) return [...left, { text: '  ' }, ...fitLine(right, room, glyphs)]
  return [...left, { text: ' '.repeat(cells - lineWidth(left) - w) }, ...right]
}

/** The whole line in one paint, such as the selected one. */
export function overlaid(l: Line, paint: Paint): Line {
  return [{ text: l.map((s) => s.text).join(''), paint }]
}

/** As a terminal takes it. `attributes: false` leaves out whatever is no plain text. */
export function ansi(l: Line, o: { colour: boolean; attributes: boolean }): string {
  return l
    .map(({ text, paint }) => {
      if (paint === undefined || text === '') return text
      const allowed = paint === 'bold' || paint === 'dim' || paint === 'inverse' ? o.attributes : o.colour
      return allowed ? painted(paint, text) : text
    })
    .join('')
}
