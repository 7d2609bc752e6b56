/** The signs that the screens are made of: fine ones, or ASCII where the locale is not UTF-8. */
export interface Glyphs {
  full: string
  empty: string
  ellipsis: string
  up: string
  down: string
  rule: string
  bar: string
}

const fine: Glyphs = { full: '█', empty: '░', ellipsis: '…', up: '↑', down: '↓', rule: '─', bar: '│' }
const ascii: Glyphs = { full: '#', empty: '.', ellipsis: '~', up: '^', down: 'v', rule: '-', bar: '|' }

/** By the locale's variables in their order of precedence (POSIX, 8.2), and by a terminal that says it can do nothing. */
export function glyphsFor(env: NodeJS.ProcessEnv): Glyphs {
  const locale = env.LC_ALL || env.LC_CTYPE || env.LANG || ''
  return /utf-?8/i.test(locale) && env.TERM !== 'dumb' ? fine : ascii
}

/** A bar of `cells` cells, so many percent of it full. */
export function bar(percent: number, cells: number, g: Glyphs): string {
  const full = Math.round((Math.min(100, Math.max(0, percent)) / 100) * cells)
  return g.full.repeat(full) + g.empty.repeat(cells - full)
}
