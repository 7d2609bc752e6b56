/** What is left over: domains that carry our mark and folders below `vm.dir` that no registry names. Listed here, removed only on request. */
import { mkdir, readdir, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { MIN_PASSES, type Orphan } from './drift.ts'
import type { SeenDomain } from './look.ts'
import type { Registry } from './registry.ts'
import { VmError } from './types.ts'

/** Folders that were orphans go in here, and are never looked at again. */
const TRASH = '.trash'

/**
 * @param ours every domain with our mark
 * @param known names that the registry has, or that a job is working on
 */
export async function findOrphans(
  registry: Registry,
  dir: string,
  ours: readonly SeenDomain[],
  known: ReadonlySet<string>,
): Promise<Omit<Orphan, 'since' | 'passes'>[]> {
  const found: Omit<Orphan, 'since' | 'passes'>[] = []
  const domains = new Set<string>()
  for (const { domain, state, owner } of ours) {
    domains.add(owner!.name).add(domain.name)
    if (known.has(owner!.name)) continue
    found.push({
      kind: 'domain',
      name: owner!.name,
      uuid: domain.uuid,
      running: state.state !== 'shutoff' && state.state !== 'crashed',
    })
  }
  for (const e of await readdir(dir, { withFileTypes: true })) {
    if (!e.isDirectory() || e.name.startsWith('.') || e.name.endsWith('.lock')) continue
    if (known.has(e.name) || domains.has(e.name) || (await registry.elsewhere(e.name))) continue
    found.push({ kind: 'folder', name: e.name, path: join(dir, e.name) })
  }
  return found
}

/** Remembers what earlier passes saw: something that is just being made looks like a leftover for a moment. */
export function orphanMemory(): (found: readonly Omit<Orphan, 'since' | 'passes'>[], at: string) => Orphan[] {
  let before = new Map<string, Orphan>()
  return (found, at) => {
    const now = new Map<string, Orphan>()
    for (const o of found) {
      const key = `${o.kind} ${o.name} ${o.uuid ?? ''}`
      const seen = before.get(key)
      now.set(key, { ...o, since: seen?.since ?? at, passes: (seen?.passes ?? 0) + 1 })
    }
    before = now
    return [...now.values()]
  }
}

/**
 * Moves an orphan folder to `<vm.dir>/.trash/<time>-<name>`: nothing is deleted, and it can be moved back.
 * @returns where it is
 * @throws VmError vm-conflict when the registry names it by now, or it was not seen often enough
 */
export async function trashFolder(registry: Registry, dir: string, o: Orphan): Promise<string> {
  const path = join(dir, o.name)
  if (o.kind !== 'folder' || o.passes < MIN_PASSES)
    throw new VmError(`The folder ${path} was seen without a VM only once; something may be being made there.`, {
      code: 'vm-conflict',
      hint: 'Try again in a minute.',
    })
  if ((await registry.get(o.name)) ?? (await registry.elsewhere(o.name)))
    throw new VmError(`The folder ${path} belongs to the VM "${o.name}" of the registry.`, { code: 'vm-conflict' })
  const trash = join(dir, TRASH)
  await mkdir(trash, { recursive: true, mode: 0o700 })
  const to = join(trash, `${new Date().toISOString().replace(/[-:.]/g, '')}-${o.name}`)
  await rename(path, to)
  return to
}
