import { constants } from 'node:fs'
import { lstat, open, readdir, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { type Action, type Done, runAction, type VmParts } from './action.ts'
import { notHere } from './boot.ts'
import { isLibvirtError, type Session } from '../libvirt/index.ts'
import type { OwnDomain } from './fence.ts'
import { halt, isOff, stateOf } from './halt.ts'
import { knownRecord } from './known.ts'
import { releaseLeases } from './lease.ts'
import { VmError, type VmHooks, type VmOrder, type VmRecord, type VmResult } from './types.ts'

export interface RemoveOptions {
  keep_disks: boolean
  force: boolean
  grace_ms: number
}

/**
 * Deletes a VM: stops it, removes it from libvirt with all that libvirt keeps of it, then its files, its entry last. What is gone already is
 * passed over, so that a delete that was interrupted goes on. A VM of which there is nothing is deleted already. @throws VmError
 */
export async function removeVm(
  parts: VmParts,
  order: VmOrder,
  name: string,
  o: RemoveOptions,
  hooks: VmHooks,
): Promise<VmResult> {
  return runAction(parts, { action: 'delete', order, name, hooks, first: 'stop' }, async (a) => {
    const known = await knownRecord(a)
    if (!known) return nothingThere(a)
    const record = await a.begin((r) => ({ ...(r ?? known), desired: 'deleted' }))
    await a.phase('stop', 'stops the guest')
    await halt(a, o)
    await a.phase('undefine', 'removes the domain from libvirt')
    await undefineDomain(a)
    await giveBackAddresses(a, record)
    await a.phase('remove', o.keep_disks ? 'removes the seed' : 'removes the disks')
    await a.fence()
    const kept = o.keep_disks ? await removeSeed(a, record) : await removeFiles(a, record)
    return {
      summary: `The VM "${name}" was deleted.${kept.length === 0 ? '' : ` Kept: ${kept.join(', ')}.`}`,
      vm: { ...record, state: 'missing' },
      entry: () => undefined,
    }
  })
}

async function nothingThere(a: Action): Promise<Done> {
  if ((await a.parts.registry.elsewhere(a.name)) !== undefined) return notHere(a)
  const left = await readdir(a.folder).catch(() => [])
  if (left.length > 0) {
    a.warn(
      `The folder ${a.folder} is there although no VM of that name is known; it was left alone. "vmspool vm gc" shows what nobody needs.`,
    )
  }
  return {
    summary: `There is no VM "${a.name}": neither an entry in the registry nor a domain of ours in libvirt. Nothing had to be deleted.`,
    unchanged: true,
  }
}

/** As many of them as the driver takes: what stays behind makes libvirt refuse, or the next VM of that name inherit it. */
const UNDEFINE = [
  ['managed_save', 'snapshots_metadata', 'nvram', 'checkpoints_metadata', 'tpm'],
  ['managed_save', 'snapshots_metadata', 'nvram', 'checkpoints_metadata'],
  ['managed_save', 'snapshots_metadata', 'checkpoints_metadata'],
  ['managed_save', 'snapshots_metadata'],
  [],
] as const

/** Removes the definition of a domain that is off. One that runs would go on without a definition, and nobody could find it again. */
export async function undefineDomain(a: Action): Promise<void> {
  await a.act(`to remove the VM "${a.name}"`, async (s, d) => {
    if (d) await undefine(s, d, a.name)
  })
}

/** What DHCP had given to its cards; what cannot be given back from here ends by itself. */
export async function giveBackAddresses(a: Action, record: VmRecord): Promise<void> {
  const macs = record.nics.map((n) => n.mac)
  if (macs.length === 0) return
  const left = await a.ask(`to give back the addresses of the VM "${a.name}"`, (s) => releaseLeases(s, macs))
  for (const l of left) {
    const end = l.expires_s === null ? 'for good' : `until ${new Date(l.expires_s * 1000).toISOString()}`
    a.hooks.log(
      'agent',
      `the DHCP server keeps ${l.address} for ${l.mac} ${end}; a VM of the same name gets it again\n`,
    )
  }
}

async function undefine(s: Session, d: OwnDomain, name: string): Promise<void> {
  const state = await stateOf(s, d.domain)
  if (!state) return
  if (!isOff(state)) {
    throw new VmError(`The VM "${name}" runs again although it was stopped; somebody else must have started it.`, {
      code: 'vm-running',
      transient: true,
      hint: 'Find out who starts it; the job is tried again.',
    })
  }
  for (const [i, flags] of UNDEFINE.entries()) {
    try {
      return await s.control.domains.undefine(d.domain, flags)
    } catch (e) {
      if (isLibvirtError(e, 'no_domain')) return
      // a driver that does not know one of them
      const unknown = isLibvirtError(e, 'invalid_argument', 'argument_unsupported', 'no_support')
      if (!unknown || i === UNDEFINE.length - 1) throw e
    }
  }
}

/**
 * Removes the folder of the VM, and disks of Ghost Agent's, which lie elsewhere. Of other VMs, what lies outside their folder stays: they
 * were never made here.
 * @returns what was kept
 */
export async function removeFiles(a: Action, record: VmRecord): Promise<string[]> {
  const outside = record.disks.map((d) => d.path).filter((p) => !p.startsWith(`${a.folder}/`))
  const kept: string[] = []
  for (const path of outside) {
    if (record.origin === 'ghost') await removeFile(path)
    else kept.push(path)
  }
  await removeFolder(a.folder)
  return kept
}

async function removeSeed(a: Action, record: VmRecord): Promise<string[]> {
  if (record.seed?.startsWith(`${a.folder}/`)) await rm(record.seed, { force: true })
  return record.disks.map((d) => d.path)
}

async function removeFolder(path: string): Promise<void> {
  const there = await lstat(path).catch((e: NodeJS.ErrnoException) => {
    if (e.code === 'ENOENT') return undefined
    throw e
  })
  if (!there) return
  // a link that somebody put there: what it leads to is not the VM's
  if (there.isSymbolicLink() || !there.isDirectory()) {
    throw new VmError(`${JSON.stringify(path)} is no folder of a VM: it is a link or a file, and was left alone.`, {
      code: 'storage',
      hint: 'Somebody put it there; remove it by hand.',
    })
  }
  await rm(path, { recursive: true, force: true, maxRetries: 3 })
  await sync(dirname(path))
}

async function removeFile(path: string): Promise<void> {
  const there = await lstat(path).catch(() => undefined)
  if (there?.isFile()) await rm(path, { force: true })
}

async function sync(folder: string): Promise<void> {
  await using h = await open(folder, constants.O_RDONLY)
  await h.sync()
}

/** The disks and everything else of a VM's folder, by name, for messages. */
export async function contentOf(folder: string): Promise<string[]> {
  return (await readdir(folder).catch(() => [])).map((n) => join(folder, n))
}
