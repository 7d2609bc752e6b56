/** Removes images by hand, unless a VM is based on one. */
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { VmError } from '../types.ts'
import { takeAway } from './clean.ts'
import { storage } from './files.ts'
import { asImage, type Entry, scan } from './scan.ts'
import type { CachedImage, ImagesOptions } from './types.ts'

type Options = ImagesOptions & { max_virtual_size: number; stale_ms: number }

/** @throws {VmError} image-not-found, vm-conflict, storage */
export async function removeImages(o: Options, which: string, vmDirs: readonly string[]): Promise<CachedImage[]> {
  const at = which.lastIndexOf('@')
  const name = at === -1 ? which : which.slice(0, at)
  const hash = at === -1 ? '' : which.slice(at + 1).toLowerCase()
  try {
    const found = (await scan(o.dir, o)).filter((e) => e.record.name === name && e.record.sha256.startsWith(hash))
    if (found.length === 0)
      throw new VmError(`There is no image ${which} in the cache ${o.dir}.`, {
        code: 'image-not-found',
        hint: '"vmspool image list" shows which there are.',
      })
    for (const e of found) if (e.links > 1) throw await used(e, vmDirs)
    const removed: CachedImage[] = []
    for (const e of found) {
      if (await takeAway(o, e, -1)) removed.push(asImage(e, false))
      else throw await used(e, vmDirs)
    }
    return removed
  } catch (e) {
    throw storage(e, `The image ${which} could not be removed`)
  }
}

async function used(e: Entry, vmDirs: readonly string[]): Promise<VmError> {
  const vms = await vmsOn(e.path, vmDirs)
  const count = Math.max(1, e.links - 1)
  const who =
    vms.length === 0
      ? `${count} hard link${count === 1 ? '' : 's'} elsewhere, which the disks of VMs lie on`
      : `the VM${vms.length === 1 ? '' : 's'} ${vms.slice(0, 10).join(', ')}${vms.length > 10 ? ` and ${vms.length - 10} more` : ''}`
  return new VmError(
    `The image ${e.record.name} (${e.record.sha256.slice(0, 12)}) is used by ${who}, so it was not removed.`,
    {
      code: 'vm-conflict',
      hint:
        vms.length === 0
          ? `They may be on another host: find FOLDER -inum ${(await stat(e.path).catch(() => undefined))?.ino ?? '?'} finds them.`
          : 'Delete the VMs first.',
    },
  )
}

/** Names of the VMs in these folders whose base is this image. */
async function vmsOn(image: string, vmDirs: readonly string[]): Promise<string[]> {
  const own = await stat(image).catch(() => undefined)
  if (!own) return []
  const found = new Set<string>()
  for (const dir of vmDirs) {
    for (const vm of await readdir(dir, { withFileTypes: true }).catch(() => [])) {
      if (!vm.isDirectory()) continue
      for (const file of await readdir(join(dir, vm.name)).catch(() => [])) {
        if (!file.startsWith('base.')) continue
        const s = await stat(join(dir, vm.name, file)).catch(() => undefined)
        if (s?.ino === own.ino && s.dev === own.dev) found.add(vm.name)
      }
    }
  }
  return [...found].sort()
}
