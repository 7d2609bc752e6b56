/**
 * How many cells of a terminal a text takes, and texts cut to a number of cells. Terminals agree on most characters (Unicode's
 * East Asian Width), not on joined emoji, variation selectors and skin tones: `harmless` takes those apart, so that what is
 * counted here is what any terminal shows.
 */

/** Names come from strangers: nothing that moves a terminal's cursor may get through. */
export function plain(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what this is about
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, '\ufffd')
}

const ascii = /^[\x20-\x7e]*$/
/** Made when a text first needs them: with their tables of Unicode they take longer than all of a short command's output. */
const patterns = once(() => ({
  /** Joiners between pictures, and skin tones after them: shown as what is joined. */
  joined: /(\p{Extended_Pictographic})[\u200d\ufe0e\ufe0f\u{1f3fb}-\u{1f3ff}]+/gu,
  /** Without any sign of their own; the joiners of Indic and Arabic scripts stay. */
  invisible: /(?![\u200c\u200d])[\p{Cf}\p{Variation_Selector}\u2028\u2029]/gu,
  wide: /^[\u1100-\u115f\u231a\u231b\u2329\u232a\u2e80-\u303e\u3041-\ua4cf\ua960-\ua97c\uac00-\ud7a3\uf900-\ufaff\ufe10-\ufe19\ufe30-\ufe6f\uff01-\uff60\uffe0-\uffe6\u{16fe0}-\u{18aff}\u{1aff0}-\u{1b2ff}\u{1f200}-\u{1f265}\u{20000}-\u{3fffd}]|^(?![\u{1f1e6}-\u{1f1ff}])\p{Emoji_Presentation}/u,
  none: /^(?:[\p{Mn}\p{Me}\u200b-\u200d\u1160-\u11ff\ufeff])/u,
}))

function once<T>(make: () => T): () => T {
  let made: T | undefined
  return () => {
    made ??= make()
    return made
  }
}

/** A line of text that takes on every terminal the cells that `width` counts: no control characters, nothing joined. */
export function harmless(text: string): string {
  if (ascii.test(text)) return text
  const { joined, invisible } = patterns()
  return plain(text.toWellFormed()).replace(joined, '$1').replace(invisible, '')
}

function cellsOf(character: string): number {
  const code = character.codePointAt(0)!
  if (code < 0x300) return 1
  const { none, wide } = patterns()
  return none.test(character) ? 0 : wide.test(character) ? 2 : 1
}

/** The cells that a line of text takes. */
export function width(text: string): number {
  if (ascii.test(text)) return text.length
  let n = 0
  for (const character of text) n += cellsOf(character)
  return n
}

/**
 * The part of a line that is seen through a window of `cells` cells that begins `from` cells into it. A wide character of which only
 * a half would be seen gives a blank.
 */
export function slice(text: string, from: number, cells: number): string {
  if (cells <= 0) return ''
  if (ascii.test(text)) return text.slice(from, from + cells)
  let out = ''
  let at = 0
  const end = from + cells
  for (const character of text) {
    const w = cellsOf(character)
    if (w === 0) {
      if (at > from && at <= end && out !== '') out += character
      continue
    }
    if (at >= end) break
    if (at >= from && at + w <= end) out += character
    else if (at + w > from) out += ' '
    at += w
  }
  return out
}

/** The text in exactly `cells` cells: filled up with blanks, or cut, with `ellipsis` (one cell) where it was cut. */
export function cell(text: string, cells: number, o: { right?: boolean; ellipsis?: string } = {}): string {
  if (cells <= 0) return ''
  const w = width(text)
  if (w > cells) {
    const kept = slice(text, 0, cells - 1)
    return `${kept}${' '.repeat(cells - 1 - width(kept))}${o.ellipsis ?? '…'}`
  }
  const fill = ' '.repeat(cells - w)
  return o.right ? fill + text : text + fill
}

/** A text in lines of at most `cells` cells, broken at blanks where there are any; its own line breaks stay. */
export function wrap(text: string, cells: number): string[] {
  const lines: string[] = []
  if (cells <= 0) return lines
  for (const paragraph of text.split('\n')) {
    let line = ''
    for (const word of paragraph.split(' ')) {
      const both = line === '' ? word : `${line} ${word}`
      if (width(both) <= cells) {
        line = both
        continue
      }
      if (line !== '') lines.push(line)
      line = word
      while (width(line) > cells) {
        const head = slice(line, 0, cells).trimEnd()
        if (head === '') break
        lines.push(head)
        line = line.slice(head.length)
      }
    }
    lines.push(line)
  }
  return lines
}
