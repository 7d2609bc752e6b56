import { stat } from 'node:fs/promises'
import { readRegistry } from './registry.ts'

/**
 * Which of the VMs in `dir` has this very file as a disk, under a name of its own: then nothing that is done to the name `path` touches the VM.
 * @returns its name
 */
export async function diskOwner(dir: string, path: string): Promise<string | undefined> {
  const file = await stat(path)
  if (file.nlink < 2) return undefined
  for (const vm of await readRegistry(dir)) {
    for (const d of vm.disks) {
      if (d.path === path) continue
      const own = await stat(d.path).catch(() => undefined)
      if (own?.ino === file.ino && own.dev === file.dev) return vm.name
    }
  }
  return undefined
}
