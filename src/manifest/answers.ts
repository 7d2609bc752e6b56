import { batchSuffix, vmSuffix } from './safe-name.ts'
import type { ConvertManifest } from './kinds/convert.ts'
import type { Manifest } from './kinds/index.ts'

/**
 * What the answer files of a job are called: `source.vm_name`, else `name`, else `vm` for a conversion, which is what
 * hyperexport polls for (contracts A1). Undefined for another kind without a name. A batch is answered as `<name>.batch`: it and a VM may be
 * called alike, and no VM waits for a name that its own batch holds. A VM job is answered as `<name>.vm` for the same reason: it takes no disk
 * of a conversion of that name away.
 */
export function answerNameOf(m: Manifest): string | undefined {
  if (m.kind === 'convert') return m.source?.vm_name || m.name || 'vm'
  if (m.kind === 'batch') return m.name + batchSuffix
  if (m.kind === 'vm') return m.name === undefined ? undefined : m.name + vmSuffix
  return m.name || undefined
}

/**
 * Which disk boots: the one with disk_type "boot", then the lowest hint, then the first disk.
 *
 * A first disk without a hint counts as hint 0. Go's `omitempty` drops a 0, so `[{}, {hint: 1}]` is what Go writes for
 * `[{hint: 0}, {hint: 1}]`; hyper2kvm took the missing one for 999 and repaired the data disk (contracts A7 16). A disk
 * that says it is "data" is passed over as long as there is another.
 */
export function bootDiskIndex(m: Pick<ConvertManifest, 'disks'>): number {
  const typed = m.disks.findIndex((d) => d.disk_type === 'boot')
  if (typed >= 0) return typed
  const candidates = m.disks.map((disk, index) => ({ disk, index }))
  const notData = candidates.filter(({ disk }) => disk.disk_type !== 'data')
  let best = 0
  let lowest = Number.POSITIVE_INFINITY
  for (const { disk, index } of notData.length > 0 ? notData : candidates) {
    // An explicit 0 elsewhere shows that the writer does not drop zeros; it is lower than the implied one.
    const hint = disk.boot_order_hint ?? (index === 0 ? 0.5 : 1e9)
    if (hint < lowest) {
      lowest = hint
      best = index
    }
  }
  return best
}
