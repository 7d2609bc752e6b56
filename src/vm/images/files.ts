/** Small work on the files of the cache. */
import { randomBytes } from 'node:crypto'
import { chmod, chown, type FileHandle, mkdir, open, rename, rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { VmError } from '../types.ts'
import { folders } from './names.ts'
import { errno } from '../../process/errno.ts'

/** Makes the folders of the cache where they are missing. Others than the owner may read: the hypervisor reads images through hard links. */
export async function makeFolders(dir: string): Promise<void> {
  try {
    await made(dir, 0o755)
    const f = folders(dir)
    for (const path of [f.partial, f.locks]) await made(path, 0o755)
  } catch (e) {
    throw storage(e, `The image cache ${dir} could not be made`)
  }
}

/** With its parents, all for the owner of the folder that was there. */
async function made(path: string, mode: number): Promise<boolean> {
  const first = await mkdir(path, { recursive: true })
  if (first === undefined) return false
  for (let at = path; at.length >= first.length; at = dirname(at)) await ownedLike(dirname(first), at)
  // the umask of a service may take bits away that others need
  await chmod(path, mode)
  return true
}

/** What root makes in somebody else's cache is his: an agent may link only its own files (fs.protected_hardlinks). */
export async function ownedLike(dir: string, path: string): Promise<void> {
  if (process.geteuid?.() !== 0) return
  const { uid, gid } = await stat(dir)
  if (uid !== 0 || gid !== 0) await chown(path, uid, gid)
}

/** A temporary name beside a file. */
export function temporary(path: string): string {
  return join(dirname(path), `.tmp-${process.pid}-${randomBytes(4).toString('hex')}`)
}

/** Whole or not at all. @param durable: also after a power loss */
export async function writeWhole(path: string, text: string, o: { durable: boolean; mode?: number }): Promise<void> {
  const tmp = temporary(path)
  try {
    const h = await open(tmp, 'wx', 0o644)
    try {
      await h.writeFile(text)
      await h.chmod(o.mode ?? 0o644)
      if (o.durable) await h.sync()
    } finally {
      await h.close()
    }
    await ownedLike(dirname(path), tmp)
    await rename(tmp, path)
  } catch (e) {
    await rm(tmp, { force: true })
    throw e
  }
  if (o.durable) await syncFolder(dirname(path))
}

export async function syncFolder(dir: string): Promise<void> {
  const h: FileHandle = await open(dir, 'r')
  try {
    await h.sync()
  } finally {
    await h.close()
  }
}

export function codeOf(e: unknown): string | undefined {
  return errno(e) || undefined
}

/** An error of the operating system as a sentence; anything else as it is. */
export function storage(e: unknown, what: string): unknown {
  if (e instanceof VmError || !(e instanceof Error) || !('syscall' in e)) return e
  const code = codeOf(e)
  const full = code === 'ENOSPC' || code === 'EDQUOT'
  const denied = code === 'EACCES' || code === 'EPERM' || code === 'EROFS'
  return new VmError(`${what}: ${e.message}.`, {
    code: 'storage',
    transient: !denied && code !== 'ENOENT' && code !== 'ENOTDIR',
    hint: full
      ? 'Free space there, or let images.dir in the configuration lie elsewhere.'
      : denied
        ? 'Run it as the user that owns the image cache (the agent’s, or root), or give that user the right to write there.'
        : 'Look into the kernel log for errors of the disk or the network filesystem.',
    cause: e,
  })
}
