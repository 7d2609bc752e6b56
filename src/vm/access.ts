import { chown, open, realpath, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { XMLParser } from 'fast-xml-parser'
import { allows, deniedTo, openBeneath, type Submitter, submitterOf } from '../images/index.ts'
import type { Session } from '../libvirt/index.ts'
import { runGroup, SpawnError } from '../process/index.ts'
import type { VmHooks } from './types.ts'

/*
 * Who may read what. QEMU runs as a user of its own (Debian: libvirt-qemu). Measured with libvirt 9.0 and `dynamic_ownership = 1`, its default:
 * - a disk is given to that user at the start and back to its owner at the stop (where the filesystem keeps trusted.* attributes);
 * - a seed, and a base below a disk, are given to him and never back: for a base that is shared with the image cache or with an answer that would
 *   take it away from those, so its description says relabel='no', and he must be able to read it as it is;
 * - folders are left alone: he must be able to pass through all of them;
 * - the log of the serial port is made as root's, for root alone; one that is there already keeps its owner with virtlogd, the default.
 * With `dynamic_ownership = 0` nothing is given to anybody. What we can do ourselves as root is right in both cases.
 */

/** As whom guests of this kind run, as far as libvirt says it. */
export async function hypervisorUser(
  s: Pick<Session, 'query'>,
  type: 'kvm' | 'qemu',
  signal?: AbortSignal,
): Promise<Submitter | undefined> {
  const ids = readHypervisorUser(await s.query.host.capabilities({ signal }), type)
  return ids && submitterOf(ids.uid, ids.gid)
}

/** From libvirt's capabilities (https://libvirt.org/formatcaps.html): `<baselabel type='kvm'>+64055:+64055</baselabel>`. */
function readHypervisorUser(xml: string, type: 'kvm' | 'qemu'): { uid: number; gid: number } | undefined {
  const parser = new XMLParser({
    ignoreAttributes: false,
    attributeNamePrefix: '',
    parseTagValue: false,
    parseAttributeValue: false,
    isArray: (name) => name === 'secmodel' || name === 'baselabel',
  })
  type Model = { model?: string; baselabel?: { type?: string; '#text'?: string }[] }
  const models = (parser.parse(xml)?.capabilities?.host?.secmodel ?? []) as Model[]
  const labels = models.find((m) => m.model === 'dac')?.baselabel ?? []
  const found = /^\+?(\d+):\+?(\d+)$/.exec(labels.find((l) => l.type === type)?.['#text']?.trim() ?? '')
  return found ? { uid: Number(found[1]), gid: Number(found[2]) } : undefined
}

/** What keeps that user from reading the file: its own mode, or a folder above. An agent that is not root goes by modes alone, without access lists. */
export async function keptFrom(path: string, who: Submitter): Promise<'file' | 'folder' | undefined> {
  const file = await openBeneath(await realpath(path), ['/'])
  try {
    return await deniedTo(file, who)
  } finally {
    await file.close()
  }
}

/**
 * Adds that user to those who may read the file, by an access list: its owner, group and mode stay.
 * @returns false where that cannot be done: no setfacl, a filesystem without access lists, a file of somebody else
 */
export async function letRead(
  path: string,
  who: Submitter,
  hooks: Pick<VmHooks, 'signal' | 'spawned'>,
): Promise<boolean> {
  try {
    const r = await runGroup(['setfacl', '-m', `u:${who.uid}:r`, '--', path], {
      signal: hooks.signal,
      onSpawn: hooks.spawned,
    })
    hooks.signal.throwIfAborted()
    return r.exit_code === 0
  } catch (e) {
    if (e instanceof SpawnError) return false
    throw e
  }
}

/**
 * The folder on the way to a VM's files that its hypervisor cannot pass through, as a sentence that says what to do.
 * @returns undefined when the way is free, as far as modes tell
 */
export async function blockedWay(folder: string, who: Submitter): Promise<string | undefined> {
  for (let at = await realpath(folder); ; at = dirname(at)) {
    if (!allows(await stat(at), who, 1))
      return `The hypervisor's user (uid ${who.uid}) cannot pass through the folder ${at}, so the guest cannot start unless an access list lets him: chmod o+x ${at}, or let vm.dir lie elsewhere.`
    if (at === '/') return undefined
  }
}

/** Gives files to that user. Nobody but root can, and nobody else has to: libvirt does it then, unless it is told not to. */
export async function handOver(paths: readonly string[], who: Submitter | undefined): Promise<void> {
  if (process.geteuid?.() !== 0 || who === undefined || who.uid === 0) return
  for (const path of paths)
    await chown(path, who.uid, who.gid).catch((e: NodeJS.ErrnoException) => {
      // a network filesystem on which root is nobody
      if (e.code !== 'EPERM') throw e
    })
}

/** The log of the serial port, if it is not there yet: what libvirt would make only root could read. */
export async function prepareLog(path: string): Promise<void> {
  const file = await open(path, 'a', 0o640)
  await file.close()
}

/** Those of the bases that are nobody else's: libvirt may give them to the hypervisor's user. */
export async function ownBases(paths: readonly string[]): Promise<Set<string>> {
  const own = new Set<string>()
  for (const path of paths) if ((await stat(path)).nlink === 1) own.add(path)
  return own
}
