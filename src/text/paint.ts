/** Colours for terminals (ECMA-48 SGR). Whoever paints says the same with words or signs: not every terminal has colours. */
export type Paint = 'red' | 'green' | 'yellow' | 'blue' | 'dim' | 'bold' | 'inverse'

const codes: Record<Paint, [number, number]> = {
  red: [31, 39],
  green: [32, 39],
  yellow: [33, 39],
  blue: [34, 39],
  dim: [2, 22],
  bold: [1, 22],
  inverse: [7, 27],
}

export function painted(paint: Paint, text: string): string {
  const [on, off] = codes[paint]
  return `\u001b[${on}m${text}\u001b[${off}m`
}

/** Colours only on a terminal, and never with NO_COLOR (no-color.org: set and not empty) or a dumb terminal. */
export function wantsColour(stream: { isTTY?: boolean }): boolean {
  return stream.isTTY === true && !process.env.NO_COLOR && process.env.TERM !== 'dumb'
}
