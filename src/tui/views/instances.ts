/** The instances below the root, and their agents. */
import { control } from '../../client/control.ts'
import { locate } from '../../client/place.ts'
import { cell, harmless } from '../../text/width.ts'
import { actionsOf } from '../actions.ts'
import { lookAgain } from '../again.ts'
import { type Instance, watchInstances } from '../data/instances.ts'
import { type Line, line, overlaid } from '../line.ts'
import { listControl } from '../list.ts'
import type { Context, Screen } from '../screen.ts'

const lookMs = 2000

export function instancesScreen(c: Context, o: { config?: string }): Screen {
  let instances: Instance[] = []
  let ids: readonly string[] = []
  let listed = false
  const watcher = watchInstances(o)
  const actions = actionsOf(c, () => again.now())

  async function look(): Promise<void> {
    instances = await watcher.look(c.place().layout.root)
    const now = instances.map((i) => i.name)
    if (now.join('/') !== ids.join('/')) ids = now
    listed = true
  }
  // Counting a long queue takes time: never more than a twentieth of it.
  const again = lookAgain(c, look, (tookMs) => Math.max(lookMs, 20 * tookMs))

  const list = listControl({ ids: () => ids, changed: c.changed, textOf: (name) => name.toLowerCase() })
  const withOne = (run: (i: Instance) => void) => () => {
    const one = instances.find((i) => i.name === list.selected())
    if (one !== undefined) run(one)
  }
  const placeOf = (i: Instance) => locate({ root: c.place().layout.root, instance: i.name, ...o })

  function drain(i: Instance): void {
    c.ask(`Drain ${i.name}: finish what runs, claim nothing more, then end its agent here?`, () => {
      placeOf(i)
        .then((place) => control(place, 'drain'))
        .then((reply) => c.say(`${i.name}: ${reply.message ?? reply.status}.`), c.fail)
        .finally(again.now)
    })
  }

  function rowsOf(i: Instance, selected: boolean, columns: number): Line {
    const alive = i.agents.filter((a) => a.state !== 'dead')
    const name = cell(harmless(i.name), nameWidth(columns), { ellipsis: c.glyphs.ellipsis })
    const state = stateOf(i)
    const count = (n: number | undefined): string => cell(n === undefined ? '-' : String(n), 7, { right: true })
    const agents =
      i.problem ?? alive.map((a) => `${a.role} ${a.host}:${a.pid}${a.state === 'unknown' ? '?' : ''}`).join(', ')
    return [
      { text: `${selected ? '> ' : '  '}${name}  ` },
      { text: cell(state, 8), paint: state === 'active' ? 'green' : 'yellow' },
      { text: `  ${count(i.queue)}  ${count(i.waiting)}  ${count(i.held)}  ${count(i.running)}  ${harmless(agents)}` },
    ]
  }
  const nameWidth = (columns: number): number => Math.max(8, Math.min(30, columns - 70))

  return {
    name: 'Instances',
    title: () => [{ text: ` vmspool v${c.version}`, paint: 'bold' }, { text: ' Instances' }],
    aside: () => line(`${c.place().layout.root} `),
    show: again.show,
    hide: again.hide,
    body({ columns, rows }) {
      const w = list.window(rows - 1)
      const head = `  ${cell('INSTANCE', nameWidth(columns))}  STATUS      QUEUE  WAITING     HELD  RUNNING  AGENTS`
      const out: Line[] = [line(head, 'bold')]
      if (ids.length === 0 && listed) {
        const root = c.place().layout.root
        out.push(line(` No instance below ${root}. Start an agent: vmspool agent NAME --root ${root}`, 'dim'))
      }
      w.ids.forEach((name, i) => {
        const selected = w.from + i === w.selected
        const l = rowsOf(instances.find((x) => x.name === name)!, selected, columns)
        out.push(selected ? overlaid(l, 'inverse') : l)
      })
      return out
    },
    search: list.search,
    bindings: [
      ...list.bindings,
      {
        keys: ['enter'],
        what: 'its jobs',
        hint: 'jobs',
        run: withOne((i) => c.switchTo({ root: c.place().layout.root, instance: i.name })),
      },
      {
        keys: ['p'],
        what: 'pause or resume it',
        hint: 'pause/resume',
        run: withOne((i) => void placeOf(i).then((place) => actions.pause(place, !i.paused), c.fail)),
      },
      {
        keys: ['d'],
        what: 'drain it, after a question: finish what runs, then end its agent here',
        hint: 'drain',
        run: withOne(drain),
      },
    ],
  }
}

function stateOf(i: Instance): string {
  if (i.problem !== undefined) return 'problem'
  if (i.draining) return 'draining'
  if (i.paused) return 'paused'
  if (i.agents.some((a) => a.state === 'alive')) return 'active'
  return i.agents.some((a) => a.state === 'unknown') ? 'unknown' : 'inactive'
}
