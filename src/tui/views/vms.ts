/** The VMs: those of the registry, and answers with images in output/. */
import { statePaint } from '../../client/describe.ts'
import type { Place } from '../../client/place.ts'
import { vmPaint, vmRemark } from '../../client/vm-describe.ts'
import type { VmView } from '../../client/vms.ts'
import { age, bytes, duration } from '../../text/people.ts'
import { cell, harmless } from '../../text/width.ts'
import { actionsOf } from '../actions.ts'
import { lookAgain } from '../again.ts'
import { soon, type Watches, watchFolders } from '../data/watch.ts'
import { type Vm, type VmDetail, vmDetail, vmFolders, vmsIn } from '../data/vms.ts'
import { type Line, line, overlaid } from '../line.ts'
import { listControl } from '../list.ts'
import type { Binding, Context, Screen } from '../screen.ts'
import { detailsScreen } from './details.ts'
import { logScreen } from './log.ts'
import { vmScreen } from './vm.ts'

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
  let watches: Watches | undefined
  const place = (): Place => c.place()

  function take(found: Vm[]): void {
    vms = found
    byName = new Map(vms.map((v) => [v.name, v]))
    ids = vms.map((v) => v.name)
    listed = true
    for (const name of details.keys()) if (!byName.has(name)) details.delete(name)
    if (again.shown) c.changed()
  }

  const again = lookAgain(
    c,
    async () => {
      // libvirt may take its time; what the files say is there at once
      if (!listed) take(await vmsIn(place()))
      take(await vmsIn(place(), true))
    },
    (tookMs) => Math.max(listMs, 20 * tookMs),
  )
  const lookSoon = soon(listAtMostEveryMs, () => {
    if (again.shown) again.now()
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

  const actions = actionsOf(c, again.now)
  const withVm = (run: (vm: VmView) => void) => () => {
    const name = list.selected()
    const real = name === undefined ? undefined : byName.get(name)?.real
    if (real !== undefined) run(real)
    else c.say(name === undefined ? 'There is no VM here.' : `${name} has disks, and no VM runs on them.`)
  }
  const changes: readonly Binding[] = [
    {
      keys: ['s'],
      what: 'stop the VM, after a question: its guest is asked, then the plug is pulled',
      hint: 'stop',
      run: withVm((v) => actions.vm(v, 'stop')),
    },
    { keys: ['r'], what: 'start the VM', hint: 'start', run: withVm((v) => actions.vm(v, 'start')) },
    { keys: ['R'], what: 'restart the VM, after a question', run: withVm((v) => actions.vm(v, 'restart')) },
    {
      keys: ['ctrl+k'],
      what: 'pull the plug of the VM at once, after a question',
      run: withVm((v) => actions.vm(v, 'stop', true)),
    },
  ]

  /** Beside VMs that run, disks are a line in words. */
  function rowBeside(vm: Vm, selected: boolean, columns: number): Line {
    const { real } = vm
    const [name, address, rest] = widths(columns)
    const d = want(vm.name)
    const words = real ? vmRemark(real) : diskWords(vm, d)
    const up = real?.uptime_ms === undefined ? '' : duration(real.uptime_ms).replaceAll(' ', '')
    return [
      { text: `${selected ? '> ' : '  '}${cell(harmless(vm.name), name, { ellipsis: c.glyphs.ellipsis })}  ` },
      { text: cell(real?.state ?? '-', 8), paint: real && vmPaint(real.state) },
      { text: `  ${cell(harmless(real?.addresses[0] ?? ''), address, { ellipsis: c.glyphs.ellipsis })}  ` },
      {
        text: `${cell(real?.vcpus === undefined ? '' : String(real.vcpus), 4, { right: true })}  ${cell(real?.memory_bytes === undefined ? '' : bytes(real.memory_bytes), 8, { right: true })}  ${cell(up, 8, { right: true })}  `,
      },
      {
        text: cell(harmless(words), rest, { ellipsis: c.glyphs.ellipsis }),
        paint: words.startsWith('!') ? 'yellow' : undefined,
      },
    ]
  }
  function diskWords(vm: Vm, d: VmDetail | undefined): string {
    const size = d === undefined ? '' : `, ${bytes(d.size)}`
    return vm.formats.length === 0 ? 'disks alone' : `${vm.formats.join(',')}${size}${d?.job ? `, ${d.job.state}` : ''}`
  }
  /** name, address, and what is left for words */
  const widths = (columns: number): [number, number, number] => {
    const left = columns - 2 - 2 - 8 - 2 - 2 - 4 - 2 - 8 - 2 - 8 - 2
    const name = Math.max(8, Math.min(40, Math.floor(left * 0.4)))
    const address = Math.max(8, Math.min(39, Math.floor(left * 0.3)))
    return [name, address, Math.max(0, left - name - address)]
  }
  const headBeside = (columns: number): string => {
    const [name, address] = widths(columns)
    return `  ${cell('NAME', name)}  STATE     ${cell('ADDRESS', address)}  VCPU    MEMORY    UPTIME  DOING OR DISKS`
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
      watches = watchFolders(Object.fromEntries(vmFolders(place()).map((dir) => [dir, lookSoon])))
      again.show()
    },
    hide() {
      watches?.stop()
      lookSoon.stop()
      again.hide()
    },
    body({ columns, rows }) {
      const w = list.window(rows - 1)
      const real = vms.some((v) => v.real !== undefined)
      const head = `  ${cell('NAME', nameWidth(columns))}  DISKS  FORMAT       SIZE  LAST JOB       AGE  LINKS`
      const out: Line[] = [line(real ? headBeside(columns) : head, 'bold')]
      if (w.ids.length === 0 && listed)
        out.push(line(' No VMs, and no disks in output/ yet. Convert one: vmspool convert FILE.', 'dim'))
      w.ids.forEach((name, i) => {
        const selected = w.from + i === w.selected
        const vm = byName.get(name)!
        const l = real ? rowBeside(vm, selected, columns) : row(vm, want(name), selected, columns)
        out.push(selected ? overlaid(l, 'inverse') : l)
      })
      return out
    },
    search: list.search,
    bindings: [
      ...list.bindings,
      {
        keys: ['enter'],
        what: 'details of the VM, or of the last job of disks alone',
        hint: 'details',
        run() {
          const name = list.selected()
          const real = name === undefined ? undefined : byName.get(name)?.real
          if (real !== undefined) c.open(vmScreen(c, real, changes))
          else withJob((s) => c.open(detailsScreen(c, s)))()
        },
      },
      ...changes,
      { keys: ['l'], what: 'log of its last job', hint: 'log', run: withJob((s) => c.open(logScreen(c, s))) },
    ],
  }
}
