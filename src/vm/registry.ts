/**
 * The registry: which VMs there are, what they should be, and what is being done with them (`<vm.dir>/vms.json`). Several processes may write
 * it: the main agent, workers, `vmspool vm gc`. It never stops anything from starting: what cannot be read is set aside and reported, and what
 * was lost with it is taken from the backup, or found again among libvirt's domains (registry-recover.ts).
 */
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import {
  commitRegistry,
  isRegistryName,
  makeRegistryDir,
  readRegistryFile,
  type Recovery,
  type RegistryContent,
  registryName,
  setAside,
  tidyRegistry,
} from './registry-file.ts'
import { withRegistryLock } from './registry-lock.ts'
import { VmError, type VmRecord } from './types.ts'

export interface RegistryProblem {
  at: string
  /** a sentence: what was wrong, where it lies now, what was used instead */
  message: string
  /** the file that was set aside */
  kept?: string
}

export interface Registry {
  path: string
  instance: string
  host: string
  get(name: string): Promise<VmRecord | undefined>
  /** by name */
  all(): Promise<VmRecord[]>
  /**
   * One VM's entry, read and written as one. `f` gets a copy, or undefined where there is none, and returns what the entry is to be; undefined
   * removes it. It may be called more than once and MUST do nothing else. What it throws is thrown, and nothing is changed.
   * `updated_at` is set here.
   * @returns the entry as it is now
   * @throws VmError 'registry' when the file cannot be read or written
   */
  update(name: string, f: (r: VmRecord | undefined) => VmRecord | undefined): Promise<VmRecord | undefined>
  /** The same for several at once, which is one write: `f` changes the map of copies. */
  change(f: (vms: Map<string, VmRecord>) => void): Promise<void>
  /** what was lost and is not found again yet */
  toRecover(): Promise<Recovery | undefined>
  /** adds what was found again (never over an entry that is there), and notes that nothing is missing any more */
  recovered(found: readonly VmRecord[]): Promise<void>
  /** which other host's registry in this folder has a VM of this name */
  elsewhere(name: string): Promise<string | undefined>
  /** since this process opened it */
  problems(): RegistryProblem[]
}

export interface RegistryOptions {
  /** `vm.dir` */
  dir: string
  instance: string
  host: string
  log: (level: 'info' | 'warn' | 'error', event: string, fields: Record<string, unknown>) => void
}

/** So often a change is begun anew because another writer was faster. */
const MAX_TRIES = 50

/** @throws VmError 'registry' when the folder cannot be read or written, or is another instance's; never because a file is damaged */
export async function openRegistry(o: RegistryOptions): Promise<Registry> {
  const found: RegistryProblem[] = []
  const path = await storing('opened', o.dir, async () => {
    await makeRegistryDir(o.dir)
    return join(o.dir, await registryName(o.dir, o.host))
  })
  /** the last content, and which file it was */
  let seen: { file: string; content: RegistryContent } | undefined

  const report = (message: string, kept?: string): void => {
    found.push({ at: new Date().toISOString(), message, ...(kept ? { kept } : {}) })
    if (found.length > 20) found.shift()
    o.log('error', 'vm.registry', { path, message, ...(kept ? { kept } : {}) })
  }

  /** Only under the lock. @returns the content, and the revision of the file (undefined: there is none) */
  const current = async (): Promise<{ base: number | undefined; content: RegistryContent; dirty: boolean }> => {
    await tidyRegistry(path)
    const read = await readRegistryFile(path, o)
    if (read.is === 'good' && read.ghost) {
      const kept = await setAside(path, 'ghost', 'keep')
      for (const b of read.bad)
        report(
          `The entry ${JSON.stringify(b.name)} of Ghost Agent's registry was left out: ${b.why}. The file is kept as ${kept}.`,
          kept,
        )
      o.log('info', 'vm.registry-upgraded', { path, vms: read.content.vms.size, kept })
      return { base: undefined, content: read.content, dirty: true }
    }
    if (read.is === 'good') {
      const { instance, revision: base } = read.content
      if (instance !== o.instance) {
        throw new VmError(
          `The registry of VMs ${path} belongs to the instance "${instance}", not to "${o.instance}".`,
          {
            code: 'registry',
            hint: 'Give each instance a folder of its own (vm.dir).',
          },
        )
      }
      return { base, content: read.content, dirty: read.bad.length > 0 && (await mend(read.content, read.bad)) }
    }
    const lost = read.is === 'corrupt' ? { why: read.why, kept: await setAside(path, 'corrupt', 'move') } : undefined
    const backup = await readRegistryFile(`${path}.bak`, o)
    if (backup.is === 'good' && !backup.ghost) {
      const what = lost ? `cannot be used: ${lost.why}. It was set aside as ${lost.kept}` : 'is gone'
      const names = backup.bad.map((b) => b.name)
      report(`The registry ${path} ${what}; the backup, which is one change older, took its place.`, lost?.kept)
      // The corrupt file may have had one revision more: nobody who still knows it may take ours for it.
      const content = { ...backup.content, revision: backup.content.revision + 1 }
      // What the last change was cannot be known: a VM of ours that the backup does not name is taken up again.
      content.recover = recovery(content.recover, `the registry had to be taken from its backup`, undefined)
      if (names.length > 0) report(`Entries of the backup ${path}.bak were wrong too: ${names.join(', ')}.`)
      return { base: undefined, content, dirty: true }
    }
    if (lost) {
      const none = backup.is === 'absent' ? 'there is no backup' : 'the backup cannot be used either'
      report(
        `The registry ${path} cannot be used: ${lost.why}. It was set aside as ${lost.kept}; ${none}, so it is rebuilt from the domains that libvirt has with our metadata.`,
        lost.kept,
      )
    }
    const why = lost ? `the registry could not be used: ${lost.why}` : 'there was no registry'
    const content: RegistryContent = { revision: 0, instance: o.instance, host: o.host, vms: new Map(), more: {} }
    content.recover = recovery(undefined, why, undefined)
    return { base: undefined, content, dirty: lost !== undefined }
  }

  /** Entries that cannot be read are taken from the backup, or are to be found again. */
  const mend = async (content: RegistryContent, bad: readonly { name: string; why: string }[]): Promise<boolean> => {
    const kept = await setAside(path, 'corrupt', 'keep')
    const backup = await readRegistryFile(`${path}.bak`, o)
    const lost: string[] = []
    for (const b of bad) {
      const older = backup.is === 'good' ? backup.content.vms.get(b.name) : undefined
      if (older) content.vms.set(b.name, older)
      else lost.push(b.name)
      const instead = older ? 'its entry in the backup took its place' : "it is looked for among libvirt's domains"
      report(
        `The entry ${JSON.stringify(b.name)} of the registry ${path} cannot be used (${b.why}); ${instead}. The file is kept as ${kept}.`,
        kept,
      )
    }
    if (lost.length > 0) content.recover = recovery(content.recover, 'entries of the registry could not be used', lost)
    return true
  }

  /** @returns what is there after `f`, which says whether it changed something */
  const write = (f: (c: RegistryContent) => boolean): Promise<RegistryContent> =>
    storing('changed', path, () =>
      withRegistryLock(path, async () => {
        for (let tries = 1; ; tries++) {
          const { base, content, dirty } = await current()
          const changed = f(content)
          if (!changed && !dirty) return content
          content.instance = o.instance
          content.host = o.host
          if (await commitRegistry(path, base, content)) {
            seen = undefined
            return content
          }
          if (tries === MAX_TRIES) {
            throw new VmError(`The registry of VMs ${path} could not be changed: others were faster ${tries} times.`, {
              code: 'registry',
              transient: true,
              hint: 'Look for files in that folder whose names begin with ".vms.json." and that nobody can remove.',
            })
          }
        }
      }),
    )

  const content = (): Promise<RegistryContent> =>
    storing('read', path, async () => {
      for (;;) {
        const file = await stat(path, { bigint: true }).then(
          (s) => `${s.ino}.${s.mtimeNs}.${s.size}`,
          () => undefined,
        )
        if (seen && seen.file === file) return seen.content
        const read = file === undefined ? undefined : await readRegistryFile(path, o)
        if (read?.is === 'good' && !read.ghost && read.bad.length === 0 && read.content.instance === o.instance) {
          seen = { file: file!, content: read.content }
          return read.content
        }
        const healed = await write(() => false)
        if (healed.revision === 0 && healed.vms.size === 0) return healed // nothing was there, and nothing was written
      }
    })

  const registry: Registry = {
    path,
    instance: o.instance,
    host: o.host,
    get: async (name) => structuredClone((await content()).vms.get(name)),
    all: async () => structuredClone([...(await content()).vms.values()]),
    async update(name, f) {
      let after: VmRecord | undefined
      if (isReserved(name)) {
        throw new VmError(`A VM cannot be called "${name}": the registry of VMs has files of that name.`, {
          code: 'vm-invalid',
          hint: 'Choose another name.',
        })
      }
      await write((c) => {
        const before = c.vms.get(name)
        after = f(structuredClone(before))
        if (after && after.name !== name)
          throw new TypeError(`The entry ${name} cannot be given the name ${after.name}.`)
        return place(c, name, before, after)
      })
      return structuredClone(after)
    },
    async change(f) {
      await write((c) => {
        const vms = structuredClone(c.vms)
        f(vms)
        let changed = false
        for (const name of new Set([...c.vms.keys(), ...vms.keys()]))
          if (place(c, name, c.vms.get(name), vms.get(name))) changed = true
        return changed
      })
    },
    toRecover: async () => structuredClone((await content()).recover),
    async recovered(records) {
      await write((c) => {
        if (!c.recover && records.length === 0) return false
        delete c.recover
        for (const r of records) if (!c.vms.has(r.name)) place(c, r.name, undefined, r)
        return true
      })
    },
    elsewhere: (name) => hostOf(o.dir, path, name),
    problems: () => [...found],
  }
  await content()
  return registry
}

/** names of files beside the folders of the VMs */
const isReserved = (name: string): boolean => /^vms(?:@.*)?\.json/.test(name)

/** @returns whether the entry is another one now */
function place(c: RegistryContent, name: string, before: VmRecord | undefined, after: VmRecord | undefined): boolean {
  const plain = after && (JSON.parse(JSON.stringify(after)) as VmRecord)
  if (isDeepStrictEqual(before, plain)) return false
  if (plain) c.vms.set(name, { ...plain, updated_at: new Date().toISOString() })
  else c.vms.delete(name)
  return true
}

function recovery(earlier: Recovery | undefined, reason: string, names: string[] | undefined): Recovery {
  const all = names === undefined || (earlier && earlier.names === undefined)
  return {
    since: earlier?.since ?? new Date().toISOString(),
    reason,
    ...(all ? {} : { names: [...new Set([...(earlier?.names ?? []), ...names])] }),
  }
}

async function hostOf(dir: string, own: string, name: string): Promise<string | undefined> {
  for (const file of await readdir(dir).catch(() => [])) {
    const path = join(dir, file)
    if (!isRegistryName(file) || path === own) continue
    const read = await readRegistryFile(path, { instance: '', host: '' }).catch(() => undefined)
    if (read?.is === 'good' && !read.ghost && read.content.vms.has(name)) return read.content.host
  }
  return undefined
}

/**
 * The VMs of all hosts that keep a registry in this folder, for views: without lock, nothing is written, and a file that cannot be used is
 * passed over for its backup.
 */
export async function readRegistry(dir: string): Promise<VmRecord[]> {
  const files = await readdir(dir).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return []
    throw error
  })
  const registries = new Set(files.map((f) => f.replace(/\.bak$/, '')).filter(isRegistryName))
  const vms: VmRecord[] = []
  for (const file of registries) {
    for (const path of [join(dir, file), join(dir, `${file}.bak`)]) {
      const read = await readRegistryFile(path, { instance: '', host: '' })
      if (read.is !== 'good') continue
      vms.push(...read.content.vms.values())
      break
    }
  }
  return vms.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))
}

/** What is wrong with the registries of a folder, as sentences: for doctor. Nothing is changed. */
export async function registryFaults(dir: string): Promise<string[]> {
  const faults: string[] = []
  for (const file of (await readdir(dir).catch(() => [])).sort()) {
    const path = join(dir, file)
    const aside = /^vms(?:@[^/]+)?\.json\.corrupt-(\d{8}T\d{6})/.exec(file)
    if (aside)
      faults.push(
        `A registry of VMs could not be used and was set aside as ${path}. Remove it when you do not need it any more.`,
      )
    if (!isRegistryName(file)) continue
    const read = await readRegistryFile(path, { instance: '', host: '' })
    if (read.is === 'corrupt')
      faults.push(
        `The registry of VMs ${path} cannot be used: ${read.why}. The agent will set it aside and rebuild it.`,
      )
    if (read.is !== 'good') continue
    for (const b of read.bad)
      faults.push(`The entry ${JSON.stringify(b.name)} of the registry ${path} cannot be used: ${b.why}.`)
    const { recover } = read.content
    if (recover)
      faults.push(
        `VMs are still to be found again for the registry ${path}, since ${recover.since}: ${recover.reason}. That needs libvirt.`,
      )
  }
  return faults
}

/** An I/O error becomes a sentence; what the caller's function throws passes. */
async function storing<T>(done: string, path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    const { code, syscall, message } = error as NodeJS.ErrnoException
    if (code === undefined || syscall === undefined) throw error
    throw new VmError(`The registry of VMs ${path} cannot be ${done}: ${message}.`, {
      code: 'registry',
      transient: true,
      hint: 'Look at the disk and at the permissions of that folder (vm.dir).',
      cause: error,
    })
  }
}
