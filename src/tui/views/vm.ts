/** All about one VM. */
import { vmPaint, vmRows } from '../../client/vm-describe.ts'
import { type VmView, vmsOf } from '../../client/vms.ts'
import { harmless } from '../../text/width.ts'
import { lookAgain } from '../again.ts'
import { line } from '../line.ts'
import type { Binding, Context, Screen } from '../screen.ts'
import { scroll } from '../scroll.ts'
import { linesOf } from './details.ts'

/** How often it is looked at again, in ms. */
const againMs = 2000

/** @param keys what can be done with it */
export function vmScreen(c: Context, vm: VmView, keys: readonly Binding[]): Screen {
  let now = vm
  const text = scroll({ changed: c.changed })

  async function look(): Promise<void> {
    const { vms } = await vmsOf(c.place(), { live: 'usage' })
    // one that was deleted stays as it was seen last
    now = vms.find((v) => v.uuid === vm.uuid && v.host === vm.host) ?? { ...now, state: 'missing' }
  }
  const again = lookAgain(c, look, () => againMs)

  return {
    name: 'VM details',
    title: () => [
      { text: ' VM ', paint: 'bold' },
      ...line(`${harmless(now.name)}  `),
      { text: now.state, paint: vmPaint(now.state) },
    ],
    show: again.show,
    hide: again.hide,
    body({ columns, rows }) {
      const lines = vmRows(now).flatMap(([label, value]) => linesOf({ label, value }, columns))
      const top = text.top(lines.length, rows)
      return lines.slice(top, top + rows)
    },
    bindings: [...text.bindings, ...keys, { keys: ['esc', 'backspace'], what: 'back', hint: 'back', run: c.back }],
  }
}
