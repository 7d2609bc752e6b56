/** All about one job. */
import { statePaint } from '../../client/describe.ts'
import { isFinal, type JobStatus } from '../../client/status.ts'
import { harmless, wrap } from '../../text/width.ts'
import { actionsOf } from '../actions.ts'
import { lookAgain } from '../again.ts'
import { type Details, detailsOf, type Row } from '../data/details.ts'
import { type Line, line } from '../line.ts'
import type { Context, Screen } from '../screen.ts'
import { scroll } from '../scroll.ts'
import { logScreen } from './log.ts'

/** How often a job that runs is looked at again, in ms. */
const againMs = 1000
const labels = 16

export function detailsScreen(c: Context, job: JobStatus): Screen {
  let details: Details = { status: job, rows: [] }
  const text = scroll({ changed: c.changed })
  const actions = actionsOf(c, () => again.now())

  async function look(): Promise<void> {
    details = await detailsOf(c.place(), job.id, details.status, c.glyphs)
  }
  const again = lookAgain(c, look, () => (isFinal(details.status) ? undefined : againMs))

  return {
    name: 'Job details',
    title: () => [
      { text: ' Job ', paint: 'bold' },
      ...line(`${details.status.name}  `),
      { text: details.status.state, paint: statePaint(details.status.state) },
    ],
    show: again.show,
    hide: again.hide,
    body({ columns, rows }) {
      if (details.rows.length === 0) return [line(` ${c.glyphs.ellipsis}`)]
      const lines = details.rows.flatMap((row) => linesOf(row, columns))
      const top = text.top(lines.length, rows)
      return lines.slice(top, top + rows)
    },
    bindings: [
      ...text.bindings,
      { keys: ['l'], what: 'log of the job', hint: 'log', run: () => c.open(logScreen(c, details.status)) },
      {
        keys: ['s'],
        what: 'stop: TERM, and KILL after a grace; one that waits is cancelled',
        hint: 'stop',
        run: () => actions.stop(details.status, false),
      },
      {
        keys: ['ctrl+k'],
        what: 'kill: KILL at once',
        run: () => actions.stop(details.status, true),
      },
      { keys: ['r'], what: 'run it again', run: () => actions.rerun(details.status) },
      { keys: ['c'], what: 'cancel, after a question', hint: 'cancel', run: () => actions.cancel(details.status) },
      {
        keys: ['R'],
        what: 'retry: go on where it failed, as a new job',
        hint: 'retry',
        run: () => actions.retry(details.status),
      },
      { keys: ['esc', 'backspace'], what: 'back', hint: 'back', run: c.back },
    ],
  }
}

export function linesOf(row: Row, columns: number): Line[] {
  if (row.heading) return [[], [{ text: ` ${row.value}`, paint: 'bold' }]]
  // What happened may have many lines of its own; what comes from strangers is made harmless line by line.
  const value = row.value.split('\n').map(harmless).join('\n')
  if (row.label === undefined) return wrap(value, columns - 1).map((text) => line(` ${text}`))
  const narrow = columns < 3 * labels
  const label = ` ${`${row.label}:`.padEnd(narrow ? 0 : labels)} `
  const parts = wrap(value, Math.max(8, columns - (narrow ? 3 : label.length)))
  if (narrow) return [line(label, 'dim'), ...parts.map((text) => line(`   ${text}`))]
  return parts.map((text, i) => [
    { text: i === 0 ? harmless(label) : ' '.repeat(label.length), paint: 'dim' },
    { text },
  ])
}
