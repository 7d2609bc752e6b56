import { stat, statfs } from 'node:fs/promises'
import { basename, dirname } from 'node:path'
import { fileSource, openBeneath, parseQcow2, qemuImg } from '../images/index.ts'
import { bytes } from '../text/people.ts'
import type { Action } from './action.ts'
import type { DefineResult, DefineSpec } from './define-types.ts'
import { exists, linkWhole } from './disk-files.ts'
import { type VmDisk, VmError } from './types.ts'

/**
 * Gives each finished disk a name in the VM's folder; where that needs a copy, one after the other, with progress. What is there already was
 * whole when it got its name. Then the snapshots. `untouched`: nobody can have started a guest on them yet.
 */
export async function linkDisks(
  a: Action,
  spec: DefineSpec,
  planned: readonly VmDisk[],
  untouched: boolean,
): Promise<DefineResult['disks']> {
  const out: DefineResult['disks'] = []
  const made = (d: VmDisk) => spec.disks.find((x) => x.id === d.id)!.path
  const total = planned.length
  for (const [i, d] of planned.entries()) {
    a.hooks.signal.throwIfAborted()
    const there = await exists(d.path)
    if (!there) await roomFor(a, made(d), d.path, spec.copy)
    const how = await linkWhole(made(d), d.path, a.hooks, {
      own: spec.copy,
      copied: (done, of) =>
        a.say(`copies disk ${d.id}${total > 1 ? ` (${i + 1} of ${total})` : ''} into the VM's folder`, {
          bytes_done: Math.min(done, of),
          bytes_total: of,
        }),
    })
    a.hooks.log('agent', `define ${d.id}: ${d.path} (${how})\n`)
    if (how === 'copy' && !spec.copy)
      a.warn(
        `The disk ${d.id} was copied, because ${dirname(dirname(d.path))} cannot hold a hard link to it: it lies on another filesystem than the output, or the file belongs to somebody else.`,
      )
    if (spec.snapshot !== undefined && untouched) await snapshot(a, d, spec.snapshot)
    out.push({ id: d.id, path: d.path, how })
  }
  return out
}

/** A copy is not begun that cannot be finished. */
async function roomFor(a: Action, from: string, to: string, own: boolean): Promise<void> {
  const [source, folder] = await Promise.all([stat(from), stat(dirname(to))])
  if (source.dev === folder.dev && !own) return
  const fs = await statfs(dirname(to))
  const free = fs.bavail * fs.bsize
  const needed = source.blocks * 512
  // where blocks can be shared nothing of it is needed; the clone will tell
  if (free >= needed || source.dev === folder.dev) return
  throw new VmError(
    `There is no room for a copy of ${basename(from)}: ${bytes(needed)} are needed, and the filesystem of ${dirname(to)} has ${bytes(free)} free.`,
    {
      code: 'storage',
      transient: true,
      phase: 'disks',
      hint: `Free space there, or let vm.dir lie on the filesystem of the output, where no copy is needed (now ${a.parts.dir}).`,
    },
  )
}

/** An internal snapshot, as libvirt makes them of domains that are off; it costs a few clusters. */
async function snapshot(a: Action, d: VmDisk, name: string): Promise<void> {
  if (d.format !== 'qcow2') {
    a.warn(`The disk ${d.id} has no snapshot "${name}": a disk in the format ${d.format} can hold none.`)
    return
  }
  const file = await openBeneath(d.path, [dirname(d.path)])
  try {
    const header = await parseQcow2(fileSource(file.handle, file.stat.size))
    if (header.snapshots > 0) return // by an attempt that was ended just then
  } finally {
    await file.close()
  }
  await qemuImg(['snapshot', '-c', name, d.path], {
    signal: a.hooks.signal,
    cwd: dirname(d.path),
    log: a.hooks.log,
    spawned: a.hooks.spawned,
    phase: 'disks',
    what: `make the snapshot ${name} of ${basename(d.path)}`,
  })
}
