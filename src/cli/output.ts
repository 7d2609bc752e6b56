/**
 * What goes to stdout: data, in the format that was asked for. Whatever is meant for people alone (progress, hints,
 * warnings) goes to stderr, so that a pipe carries nothing but data.
 */
import { Option } from 'commander'

export type Format = 'table' | 'json' | 'yaml' | 'name'

export function formatOption(
  formats: readonly Format[] = ['table', 'json', 'yaml', 'name'],
  initial: Format = 'table',
): Option {
  return new Option('-o, --output <format>', 'how to print').choices([...formats]).default(initial)
}

export function out(text: string): void {
  process.stdout.write(text.endsWith('\n') ? text : `${text}\n`)
}

/** For people: a full sentence on stderr. */
export function say(text: string): void {
  process.stderr.write(`${text}\n`)
}

export interface Column<Row> {
  title: string
  value(row: Row): string
  /** applied after padding, and only when stdout takes colours */
  paint?(row: Row): Paint | undefined
  right?: boolean
}

/** Prints rows as a table, as one JSON or YAML array, or as one name a line. */
export async function printRows<Row>(
  format: Format,
  rows: readonly Row[],
  o: { columns: readonly Column<Row>[]; name(row: Row): string; empty: string },
): Promise<void> {
  if (format === 'json' || format === 'yaml') return printValue(format, rows)
  if (format === 'name') {
    for (const row of rows) out(o.name(row))
    return
  }
  if (rows.length === 0) say(o.empty)
  else out(table(rows, o.columns, wantsColour(process.stdout)))
}

export async function printValue(format: 'json' | 'yaml', value: unknown): Promise<void> {
  if (format === 'json') return out(JSON.stringify(value, null, 2))
  const { stringify } = await import('yaml')
  out(stringify(value, { aliasDuplicateObjects: false }))
}

export function table<Row>(rows: readonly Row[], columns: readonly Column<Row>[], colour: boolean): string {
  const cells = rows.map((row) => columns.map((c) => plain(c.value(row))))
  const widths = columns.map((c, i) => Math.max(width(c.title), ...cells.map((line) => width(line[i]!))))
  const pad = (text: string, i: number, right: boolean | undefined): string => {
    const fill = ' '.repeat(widths[i]! - width(text))
    if (right) return fill + text
    return i === columns.length - 1 ? text : text + fill
  }
  const lines = [columns.map((c, i) => pad(c.title, i, c.right)).join('  ')]
  rows.forEach((row, r) => {
    const line = columns.map((c, i) => {
      const text = pad(cells[r]![i]!, i, c.right)
      const paint = colour ? c.paint?.(row) : undefined
      return paint === undefined ? text : painted(paint, text)
    })
    lines.push(line.join('  ').trimEnd())
  })
  return lines.join('\n')
}

/** Names come from strangers: nothing that moves a terminal's cursor may get through. */
export function plain(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what this is about
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, '\ufffd')
}

function width(text: string): number {
  let n = 0
  for (const { segment } of segmenter.segment(text)) n += wide.test(segment) ? 2 : 1
  return n
}
const segmenter = new Intl.Segmenter()
const wide =
  /^[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|\p{Emoji_Presentation}/u

export type Paint = 'red' | 'green' | 'yellow' | 'blue' | 'dim' | 'bold'
const codes: Record<Paint, [number, number]> = {
  red: [31, 39],
  green: [32, 39],
  yellow: [33, 39],
  blue: [34, 39],
  dim: [2, 22],
  bold: [1, 22],
}

export function painted(paint: Paint, text: string): string {
  const [on, off] = codes[paint]
  return `\u001b[${on}m${text}\u001b[${off}m`
}

/** Colours only on a terminal, and never with NO_COLOR (no-color.org: set and not empty) or a dumb terminal. */
export function wantsColour(stream: { isTTY?: boolean }): boolean {
  return stream.isTTY === true && !process.env.NO_COLOR && process.env.TERM !== 'dumb'
}
