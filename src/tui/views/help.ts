/** The keys of the screen it was opened from. */
import { cell } from '../../text/width.ts'
import { keyLabel } from '../keys.ts'
import { type Line, line } from '../line.ts'
import type { Binding, Context, Screen } from '../screen.ts'
import { scroll } from '../scroll.ts'

export function helpScreen(c: Context, of: string, bindings: readonly Binding[]): Screen {
  const text = scroll({ changed: c.changed })
  const lines: Line[] = bindings.map((b) => [
    { text: ` ${cell(b.keys.map(keyLabel).join(' '), 14)}`, paint: 'bold' },
    { text: `  ${b.what}` },
  ])
  return {
    name: 'Help',
    title: () => [{ text: ' Keys', paint: 'bold' }, ...line(`: ${of}`)],
    body({ rows }) {
      const top = text.top(lines.length, rows)
      return lines.slice(top, top + rows)
    },
    bindings: [...text.bindings, { keys: ['esc', 'enter', '?'], what: 'back', hint: 'back', run: c.back }],
  }
}
