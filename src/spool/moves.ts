/** The one way things move. */
import { basename, dirname } from 'node:path'
import { errno } from './errors.ts'
import type { Spool } from './spool.ts'

/**
 * rename(2) to a name that only this move can make. After *any* error the folders are listed: over NFS the reply of a
 * rename that happened can be lost, and the retransmitted one answers ENOENT.
 * @returns true when the target is there, false when the source was gone (somebody else moved it)
 * @throws the rename's own error when the source is still there
 */
export async function move(s: Spool, from: string, to: string): Promise<boolean> {
  try {
    await s.fs.rename(from, to)
    return true
  } catch (error) {
    if (await listed(s, to)) return true
    if (errno(error) === 'ENOENT' && !(await listed(s, from))) return false
    throw error
  }
}

/** Whether a name is in its folder, by a fresh listing; a folder that is gone holds nothing. */
export async function listed(s: Spool, path: string): Promise<boolean> {
  try {
    return (await s.fs.readdirFresh(dirname(path))).includes(basename(path))
  } catch (error) {
    if (errno(error) === 'ENOENT') return false
    throw error
  }
}

/** mkdir that does not mind a folder which is there. */
export async function ensureDir(s: Spool, dir: string, mode = 0o755): Promise<void> {
  try {
    await s.fs.mkdir(dir, mode)
  } catch (error) {
    if (errno(error) !== 'EEXIST') throw error
  }
}

/**
 * A folder into which things may be moved: it is durable itself. Whoever made it, its maker may not have come to the fsync,
 * and what was moved into a folder that power loss takes back is lost with it.
 */
export async function ensureDurableDir(s: Spool, dir: string, mode = 0o755): Promise<void> {
  await ensureDir(s, dir, mode)
  await s.sync(dirname(dir))
}

/** fsync of a folder that may not exist, and then holds nothing that could be lost. */
export async function syncIfThere(s: Spool, dir: string): Promise<void> {
  try {
    await s.sync(dir)
  } catch (error) {
    if (errno(error) !== 'ENOENT') throw error
  }
}

/** The names in a folder, or none when it is missing. */
export async function namesIn(s: Spool, dir: string, fresh = false): Promise<string[]> {
  try {
    return fresh ? await s.fs.readdirFresh(dir) : await s.fs.readdir(dir)
  } catch (error) {
    if (errno(error) === 'ENOENT' || errno(error) === 'ENOTDIR') return []
    throw error
  }
}

/** Removes a file that may be gone already. */
export async function removeFile(s: Spool, path: string): Promise<void> {
  try {
    await s.fs.unlink(path)
  } catch (error) {
    if (errno(error) !== 'ENOENT') throw error
  }
}

/** Removes a folder with all in it. Only for what nobody needs any more. */
export async function removeTree(s: Spool, dir: string): Promise<void> {
  let entries: { name: string; kind: string }[]
  try {
    entries = await s.fs.readdirKinds(dir)
  } catch (error) {
    if (errno(error) === 'ENOENT') return
    throw error
  }
  for (const e of entries) {
    if (e.kind === 'dir') await removeTree(s, `${dir}/${e.name}`)
    else await removeFile(s, `${dir}/${e.name}`)
  }
  try {
    await s.fs.rmdir(dir)
  } catch (error) {
    if (errno(error) !== 'ENOENT') throw error
  }
}
