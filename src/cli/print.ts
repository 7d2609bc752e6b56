/**
 * What goes to stdout: data, in the format that was asked for. Whatever is meant for people alone (progress, hints,
 * warnings) goes to stderr, so that a pipe carries nothing but data. Without the parser of options, which short commands do without.
 */
import { type Paint, painted, wantsColour } from '../text/paint.ts'
import { plain, width } from '../text/width.ts'

export { type Paint, painted, plain, wantsColour }

export type Format = 'table' | 'json' | 'yaml' | 'name'

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
