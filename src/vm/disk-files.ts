import { randomBytes } from 'node:crypto'
import { constants } from 'node:fs'
import { chmod, copyFile, link, open, readdir, rename, rm, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { runGroup } from '../process/index.ts'
import type { VmHooks } from './types.ts'

/** Files that appear whole or not at all, and never in the place of another one. */

/** Nobody but their owner and who shares a group with them; the hypervisor's user is let in by libvirt, or by the caller. */
const MODE = 0o600
/** between two looks at a copy under way */
const LOOK_MS = 500

/**
 * Lets `make` write a file under another name beside `path`, and gives it its name when it is whole and on the disk. A file that has the name
 * by then stays: an attempt that was thought dead MUST NOT put its own under a VM that runs. What dead attempts left half made is removed.
 * @throws what `make` throws, the operating system's errors
 */
export async function placeWhole(
  path: string,
  make: (temporary: string) => Promise<void>,
  mode: number = MODE,
): Promise<'made' | 'there'> {
  const dir = dirname(path)
  const prefix = `.${basename(path)}.`
  for (const name of await readdir(dir))
    if (name.startsWith(prefix) && name.endsWith('.tmp')) await rm(join(dir, name), { force: true })
  const temporary = join(dir, `${prefix}${randomBytes(6).toString('hex')}.tmp`)
  try {
    await make(temporary)
    await chmod(temporary, mode)
    await sync(temporary)
    const how = await takeName(temporary, path)
    await sync(dir)
    return how
  } finally {
    await rm(temporary, { force: true })
  }
}

/** rename(2) would replace what is there; link(2) does not. */
async function takeName(temporary: string, path: string): Promise<'made' | 'there'> {
  try {
    await link(temporary, path)
    return 'made'
  } catch (e) {
    const { code } = e as NodeJS.ErrnoException
    if (code === 'EEXIST') return 'there'
    // filesystems without hard links
    if (code !== 'EPERM' && code !== 'ENOTSUP' && code !== 'EOPNOTSUPP' && code !== 'ENOSYS') throw e
  }
  if (await exists(path)) return 'there'
  await rename(temporary, path)
  return 'made'
}

/**
 * Gives a finished image a second name: a hard link, so that nothing that happens to the first name touches it. On another filesystem, or where
 * the kernel allows no link to a file of somebody else, it is cloned or copied with its holes. What is there already stays.
 */
export async function linkWhole(
  from: string,
  to: string,
  hooks: Pick<VmHooks, 'signal' | 'spawned'>,
  o: {
    /** rather a file that shares nothing but blocks */
    own?: boolean
    /** how far a copy is, in bytes on the disk, now and then */
    copied?(done: number, of: number): void
  } = {},
): Promise<'link' | 'clone' | 'copy' | 'there'> {
  try {
    if (!o.own) {
      await link(from, to)
      await sync(dirname(to))
      return 'link'
    }
    if (await exists(to)) return 'there'
  } catch (e) {
    const { code } = e as NodeJS.ErrnoException
    if (code === 'EEXIST') return 'there'
    // EMLINK: a base under very many VMs
    if (!['EXDEV', 'EPERM', 'EMLINK', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS'].includes(code ?? '')) throw e
  }
  let how: 'clone' | 'copy' = 'clone'
  const { mode, blocks } = await stat(from)
  const placed = await placeWhole(
    to,
    async (temporary) => {
      if (await cloneFile(from, temporary)) return
      how = 'copy'
      const look = (): void =>
        void stat(temporary).then(
          (s) => o.copied?.(s.blocks * 512, blocks * 512),
          () => {}, // not begun yet
        )
      const looking = setInterval(look, LOOK_MS)
      try {
        await copyWithHoles(from, temporary, hooks)
      } finally {
        clearInterval(looking)
      }
    },
    mode & 0o777,
  )
  return placed === 'there' ? 'there' : how
}

/** Shares the blocks where the filesystem can. @returns false where it cannot; then nothing is there */
export async function cloneFile(from: string, to: string): Promise<boolean> {
  try {
    await copyFile(from, to, constants.COPYFILE_FICLONE_FORCE | constants.COPYFILE_EXCL)
    return true
  } catch (e) {
    await rm(to, { force: true })
    const { code } = e as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'EIO' || code === 'ENOSPC' || code === 'EACCES') throw e
    return false
  }
}

/** copy_file_range(2), which Node uses, would fill the holes. */
async function copyWithHoles(from: string, to: string, hooks: Pick<VmHooks, 'signal' | 'spawned'>): Promise<void> {
  let stderr = ''
  const r = await runGroup(['cp', '--reflink=never', '--sparse=auto', '--', from, to], {
    signal: hooks.signal,
    onSpawn: hooks.spawned,
    env: { LC_ALL: 'C' },
    onStderr: (c) => {
      stderr = (stderr + c.toString('utf8')).slice(-2000)
    },
  })
  hooks.signal.throwIfAborted()
  if (r.exit_code === 0) return
  const code = /No space left|quota exceeded/.test(stderr) ? 'ENOSPC' : 'EIO'
  throw Object.assign(new Error(`cp could not copy ${from}: ${stderr.trim() || r.signal}`), { code })
}

export async function exists(path: string): Promise<boolean> {
  try {
    await stat(path)
    return true
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code === 'ENOENT') return false
    throw e
  }
}

/** Removes what attempts left in the folder that were killed in the middle of writing, with the secrets that may be in it. */
export async function removeHalfMade(dir: string): Promise<void> {
  const names = await readdir(dir).catch((e: NodeJS.ErrnoException) => {
    if (e.code === 'ENOENT') return []
    throw e
  })
  for (const name of names)
    if (/^\..+\.[0-9a-f]{12}\.tmp$/.test(name)) await rm(join(dir, name), { recursive: true, force: true })
}

async function sync(path: string): Promise<void> {
  await using file = await open(path, constants.O_RDONLY)
  await file.sync()
}

/** Whether files in this folder, which is ours, can be opened past the host's cache: not on every tmpfs, FUSE and older overlay. */
export async function takesDirectIo(dir: string): Promise<boolean> {
  const path = join(dir, `.direct.${randomBytes(6).toString('hex')}.tmp`)
  try {
    const file = await open(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL | constants.O_DIRECT, 0o600)
    await file.close()
    return true
  } catch (e) {
    // the file is made before the kernel refuses to open it so
    if ((e as NodeJS.ErrnoException).code !== 'EINVAL') throw e
    return false
  } finally {
    await rm(path, { force: true })
  }
}
