/** Which screens there are, and the keys that all of them have. */
import { join } from 'node:path'
import { instancesBelow } from '../client/agents.ts'
import { locate, type Place } from '../client/place.ts'
import { isPaused } from '../spool/control.ts'
import { actionsOf } from './actions.ts'
import { type Controller, controller } from './controller.ts'
import type { Glyphs } from './glyphs.ts'
import type { Binding, Context, Screen } from './screen.ts'
import { instancesScreen } from './views/instances.ts'
import { type JobsScreen, jobsScreen } from './views/jobs.ts'
import { vmsScreen } from './views/vms.ts'

export type ViewName = 'jobs' | 'vms' | 'instances'

export interface SessionOptions {
  /** the spools that are looked into; the first comes first */
  places: readonly Place[]
  /** the configuration file that was named, for other instances too */
  config?: string
  version: string
  glyphs: Glyphs
  view: ViewName
  changed(): void
  quit(): void
  suspend(): void
  redraw(): void
}

export function session(o: SessionOptions): Controller {
  let place = o.places[0]!
  const roots = [...new Set(o.places.map((p) => p.layout.root))]
  const file = o.config === undefined ? {} : { config: o.config }
  let jobs: JobsScreen | undefined

  function screen(c: Context, view: ViewName): Screen {
    if (view === 'vms') return vmsScreen(c)
    if (view === 'instances') return instancesScreen(c, file)
    // The list goes on behind the others: coming back to it finds it as it was.
    jobs ??= jobsScreen(c)
    return jobs
  }

  /** Those below the roots; and what has a user's own commands alone, which no agent ever worked. */
  async function others(): Promise<{ root: string; instance: string }[]> {
    const found = new Map(o.places.map((p) => [p.layout.output, { root: p.layout.root, instance: p.instance }]))
    for (const root of roots) {
      for (const instance of await instancesBelow(root)) found.set(join(root, instance, 'output'), { root, instance })
    }
    return [...found.values()]
  }

  function chooseInstance(c: Context): void {
    others().then((all) => {
      if (all.length < 2) return c.say(`There is no other instance below ${place.layout.root}.`)
      if (all.length > 9) return program.reset(screen(c, 'instances'))
      const label = (to: { root: string; instance: string }): string =>
        roots.length > 1 ? `${to.instance} (${to.root})` : to.instance
      return c.choose(
        'Instance',
        all.map((to, i) => ({ key: String(i + 1), label: label(to), pick: () => c.switchTo(to) })),
      )
    }, c.fail)
  }

  function togglePause(c: Context): void {
    isPaused(place.spool).then((paused) => actionsOf(c, () => {}).pause(place, !paused), c.fail)
  }

  const program = controller({
    version: o.version,
    glyphs: o.glyphs,
    place: () => place,
    changed: o.changed,
    quit: o.quit,
    switchTo(to) {
      locate({ ...to, ...file }).then((found) => {
        jobs?.stop()
        jobs = undefined
        place = found
        program.reset(screen(program.context, 'jobs'))
      }, program.context.fail)
    },
    everywhere: (c): readonly Binding[] => [
      { keys: ['1'], what: 'jobs', run: () => program.reset(screen(c, 'jobs')) },
      { keys: ['2'], what: 'VMs', run: () => program.reset(screen(c, 'vms')) },
      { keys: ['3'], what: 'instances', run: () => program.reset(screen(c, 'instances')) },
      { keys: ['i'], what: 'another instance', run: () => chooseInstance(c) },
      { keys: ['p'], what: 'pause or resume the instance', run: () => togglePause(c) },
      { keys: ['ctrl+l'], what: 'draw the screen anew', run: o.redraw },
      { keys: ['ctrl+z'], what: 'stop the program, for the shell; fg brings it back', run: o.suspend },
      { keys: ['q', 'ctrl+c'], what: 'quit', hint: 'quit', run: o.quit },
    ],
    closed: () => jobs?.stop(),
  })
  program.reset(screen(program.context, o.view))
  return program
}
