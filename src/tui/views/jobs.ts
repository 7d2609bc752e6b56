/** The list of jobs. */
import { isFinal, type JobStatus } from '../../client/status.ts'
import { actionsOf } from '../actions.ts'
import { jobsOf } from '../data/jobs.ts'
import { type Filter, ghostFilters, orders, selection, stateFilters } from '../data/selection.ts'
import { soon } from '../data/watch.ts'
import { type Line, line, overlaid } from '../line.ts'
import { listControl } from '../list.ts'
import type { Binding, Context, Screen } from '../screen.ts'
import { detailsScreen } from './details.ts'
import { headOf, rowOf } from './job-columns.ts'
import { logScreen } from './log.ts'

export interface JobsScreen extends Screen {
  /** reads nothing any more; for good */
  stop(): void
}

/** Sorting and counting all of them may take this share of the time; a key that changes the order does it at once. */
const deriveShare = 20

export function jobsScreen(c: Context): JobsScreen {
  let filter: Filter = ghostFilters[0]!
  let order = orders[0]!
  let turned = false
  const rendered = soon(100, c.changed)
  const jobs = jobsOf(c.place(), {
    changed: rendered,
    failed: (error) => c.fail(error),
  })
  const actions = actionsOf(c, (id) => id !== undefined && jobs.touch(id))

  let derived: { ids: readonly string[]; running: number; waiting: number; failed: number } | undefined
  let derivedFrom = -1
  let derivedAt = 0
  let deriveCost = 0
  const deriveAgain = soon(100, c.changed)

  function now(): NonNullable<typeof derived> {
    if (derived !== undefined && derivedFrom === jobs.version()) return derived
    const start = performance.now()
    if (derived !== undefined && start - derivedAt < deriveShare * deriveCost) {
      deriveAgain()
      return derived
    }
    const all = jobs.ids()
    const n = { running: 0, waiting: 0, failed: 0 }
    for (const id of all) {
      const s = jobs.status(id)
      if (s === undefined) continue
      if (s.state === 'running') n.running += 1
      else if (s.state === 'failed' || s.state === 'rejected') n.failed += 1
      else if (!isFinal(s)) n.waiting += 1
    }
    derived = { ids: selection(all, jobs.status, filter, order, turned), ...n }
    derivedFrom = jobs.version()
    derivedAt = performance.now()
    deriveCost = derivedAt - start
    return derived
  }
  function otherwise(change: () => void): void {
    change()
    derived = undefined
    c.changed()
  }

  const list = listControl({
    ids: () => now().ids,
    changed: c.changed,
    textOf(id) {
      const s = jobs.status(id)
      if (s === undefined) return id.toLowerCase()
      return [id, s.name, s.kind, s.state, s.command?.join(' '), s.cwd, s.reason, s.phase].join('\n').toLowerCase()
    },
  })
  const withJob = (run: (s: JobStatus) => void) => () => {
    const id = list.selected()
    const status = id === undefined ? undefined : jobs.status(id)
    if (status !== undefined) run(status)
    else c.say(id === undefined ? 'There is no job here.' : `The status of ${id} has not been read yet.`)
  }

  const bindings: readonly Binding[] = [
    ...list.bindings,
    { keys: ['enter'], what: 'details of the job', hint: 'details', run: withJob((s) => c.open(detailsScreen(c, s))) },
    { keys: ['l'], what: 'log of the job', hint: 'log', run: withJob((s) => c.open(logScreen(c, s))) },
    {
      keys: ['s'],
      what: 'stop: TERM, and KILL after a grace; one that waits is cancelled',
      hint: 'stop',
      run: withJob((s) => actions.stop(s, false)),
    },
    {
      keys: ['ctrl+k'],
      what: 'kill: KILL at once',
      run: withJob((s) => actions.stop(s, true)),
    },
    { keys: ['r'], what: 'run it again', hint: 'rerun', run: withJob(actions.rerun) },
    { keys: ['c'], what: 'cancel, after a question', run: withJob(actions.cancel) },
    { keys: ['R'], what: 'retry: go on where it failed, as a new job', run: withJob(actions.retry) },
    {
      keys: ['tab'],
      what: 'filter: All, Running, Exited, Killed',
      hint: 'filter',
      run: () =>
        otherwise(() => {
          filter = ghostFilters[(ghostFilters.indexOf(filter) + 1) % ghostFilters.length]!
        }),
    },
    {
      keys: ['f'],
      what: 'filter by state',
      run: () =>
        c.choose(
          'Show',
          stateFilters.map(({ key, filter: f }) => ({
            key,
            label: f.label.toLowerCase(),
            pick: () =>
              otherwise(() => {
                filter = f
              }),
          })),
        ),
    },
    {
      keys: ['o'],
      what: 'sort by another column',
      run: () =>
        otherwise(() => {
          order = orders[(orders.indexOf(order) + 1) % orders.length]!
          turned = false
        }),
    },
    {
      keys: ['O'],
      what: 'turn the order round',
      run: () =>
        otherwise(() => {
          turned = !turned
        }),
    },
  ]

  function empty(): Line {
    if (jobs.counts().known > 0)
      return line(` No job passes the filter "${filter.label}". Tab or f shows others.`, 'dim')
    return line(' No jobs yet. Submit one: vmspool submit FILE, or vmspool run -- COMMAND.', 'dim')
  }

  let started = false
  return {
    name: 'Jobs',
    title: () => [
      { text: ` vmspool v${c.version}`, paint: 'bold' },
      ...line(` [Filter: ${filter.label}]`),
      ...(order === orders[0] && !turned
        ? []
        : line(` sort: ${order.label} ${order.down !== turned ? c.glyphs.down : c.glyphs.up}`)),
    ],
    aside() {
      const { known, read, more } = jobs.counts()
      const { paused, alive } = jobs.agents()
      const n = now()
      const jobsText = `${known}${more ? ' newest' : ''} job${known === 1 ? '' : 's'}`
      const loading = read < known ? `${read} of ${known} read` : jobsText
      const some = [
        [n.running, 'running'],
        [n.waiting, 'waiting'],
        [n.failed, 'failed'],
      ] as const
      const texts = some.filter(([count]) => count > 0).map(([count, what]) => `${count} ${what}`)
      // That nobody works what waits is worth more than how much there is.
      const first = [paused ? 'PAUSED' : '', n.waiting > 0 && !alive ? 'NO AGENT' : ''].filter((t) => t !== '')
      return line(`${c.place().instance}: ${[...first, loading, ...texts].join(', ')} `)
    },
    show() {
      if (started) return c.changed()
      started = true
      jobs.start()
    },
    stop() {
      jobs.stop()
      rendered.stop()
      deriveAgain.stop()
    },
    body({ columns, rows }) {
      const head = rows > 2 ? [headOf(columns, c.glyphs)] : []
      const w = list.window(rows - head.length)
      jobs.wish(w.ids)
      const out: Line[] = [...head]
      if (w.ids.length === 0) out.push(empty())
      const moment = Date.now()
      w.ids.forEach((id, i) => {
        const selected = w.from + i === w.selected
        const row = rowOf(id, jobs.status(id), selected, columns, c.glyphs, moment)
        out.push(selected ? overlaid(row, 'inverse') : row)
      })
      return out
    },
    search: list.search,
    bindings,
  }
}
