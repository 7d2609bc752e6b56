/** The VMs: answers with images in output/. */
import { statePaint } from '../../client/describe.ts'
import type { Place } from '../../client/place.ts'
import { age, bytes } from '../../text/people.ts'
import { cell, harmless } from '../../text/width.ts'
import { soon, type Watches, watchFolders } from '../data/watch.ts'
import { type Vm, type VmDetail, vmDetail, vmsIn } from '../data/vms.ts'
import { type Line, line, overlaid } from '../line.ts'
import { listControl } from '../list.ts'
import type { Context, Screen } from '../screen.ts'
import { detailsScreen } from './details.ts'
import { logScreen } from './log.ts'

/** The folder is listed again after this, in ms, or when something changed in it; sizes on the screen are read again after the second. */
const listMs = 10_000
const listAtMostEveryMs = 1000
const detailMs = 5000

export function vmsScreen(c: Context): Screen {
  let vms: Vm[] = []
  let ids: readonly string[] = []
  let byName = new Map<string, Vm>()
  const details = new Map<string, { at: number; value?: VmDetail }>()
  let listed = false
  let open = false
  let timer: NodeJS.Timeout | undefined
  let watches: Watches | undefined
  const place = (): Place => c.place()

  async function look(): Promise<void> {
    clearTimeout(timer)
    const start = performance.now()
    try {
      vms = await vmsIn(place())
      byName = new Map(vms.map((v) => [v.name, v]))
      ids = vms.map((v) => v.name)
      listed = true
      for (const name of details.keys()) if (!byName.has(name)) details.delete(name)
    } catch (error) {
      c.fail(error)
    }
    if (!open) return
    c.changed()
    timer = setTimeout(look, Math.max(listMs, 20 * (performance.now() - start)))
  }
  const lookSoon = soon(listAtMostEveryMs, () => {
    if (open) void look()
  })

  /** What is on the screen is read when it is new there, and now and then again. */
  function want(name: string): VmDetail | undefined {
    const vm = byName.get(name)
    const known = details.get(name)
    if (vm !== undefined && (known === undefined || performance.now() - known.at > detailMs)) {
      details.set(name, { ...known, at: performance.now() })
      vmDetail(place(), vm).then((value) => {
        details.set(name, { at: performance.now(), value })
        c.changed()
      }, c.fail)
    }
    return known?.value
  }

  const list = listControl({ ids: () => ids, changed: c.changed, textOf: (name) => name.toLowerCase() })
  const withJob = (run: (job: NonNullable<VmDetail['job']>) => void) => () => {
    const name = list.selected()
    const job = name === undefined ? undefined : details.get(name)?.value?.job
    if (job !== undefined) run(job)
    else c.say(name === undefined ? 'There is no VM here.' : `No job is known that made ${name}.`)
  }

  function row(vm: Vm, d: VmDetail | undefined, selected: boolean, columns: number): Line {
    const wide = nameWidth(columns)
    const name = cell(harmless(vm.name), wide, { ellipsis: c.glyphs.ellipsis })
    const size = d === undefined ? '' : bytes(d.size)
    const job = d?.job
    return [
      { text: `${selected ? '> ' : '  '}${name}  ` },
      {
        text: `${cell(String(vm.disks), 5, { right: true })}  ${cell(vm.formats.join(','), 7)}  ${cell(size, 8, { right: true })}  `,
      },
      { text: cell(job?.state ?? '', 9), paint: job && statePaint(job.state) },
      {
        text: `  ${cell(job === undefined ? '' : age(job.finished_at ?? job.accepted_at).replaceAll(' ', ''), 8, { right: true })}`,
      },
      { text: `  ${vm.linked ? 'vms/' : ''}` },
    ]
  }
  const nameWidth = (columns: number): number => Math.max(8, Math.min(60, columns - 2 - 5 - 7 - 8 - 9 - 8 - 6 - 12))

  return {
    name: 'VMs',
    title: () => [{ text: ` vmspool v${c.version}`, paint: 'bold' }, { text: ' VMs' }],
    aside: () => line(`${place().instance}: ${ids.length} VM${ids.length === 1 ? '' : 's'} `),
    show() {
      open = true
      watches = watchFolders({ [place().layout.output]: lookSoon })
      void look()
    },
    hide() {
      open = false
      watches?.stop()
      lookSoon.stop()
      clearTimeout(timer)
    },
    body({ columns, rows }) {
      const w = list.window(rows - 1)
      const head = `  ${cell('NAME', nameWidth(columns))}  DISKS  FORMAT       SIZE  LAST JOB       AGE  LINKS`
      const out: Line[] = [line(head, 'bold')]
      if (w.ids.length === 0 && listed)
        out.push(line(' No disks in output/ yet. Convert one: vmspool convert FILE.', 'dim'))
      w.ids.forEach((name, i) => {
        const selected = w.from + i === w.selected
        const l = row(byName.get(name)!, want(name), selected, columns)
        out.push(selected ? overlaid(l, 'inverse') : l)
      })
      return out
    },
    search: list.search,
    bindings: [
      ...list.bindings,
      {
        keys: ['enter'],
        what: 'details of its last job',
        hint: 'job',
        run: withJob((s) => c.open(detailsScreen(c, s))),
      },
      { keys: ['l'], what: 'log of its last job', hint: 'log', run: withJob((s) => c.open(logScreen(c, s))) },
    ],
  }
}
