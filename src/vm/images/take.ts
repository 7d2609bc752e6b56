/** Takes an image in from a file of this host, which is only read. */
import { constants } from 'node:fs'
import { copyFile, open, realpath, rm } from 'node:fs/promises'
import { runGroup } from '../../process/index.ts'
import { openBeneath, ImageError } from '../../images/index.ts'
import { VmError } from '../types.ts'
import type { ImageRecord } from './record.ts'
import type { SpaceGate } from './space.ts'
import type { ImageHooks } from './types.ts'

type FileVersion = NonNullable<ImageRecord['file']>

/** What tells one state of a file from another. @throws {VmError} image-not-found */
export async function versionOfFile(path: string): Promise<FileVersion> {
  try {
    const h = await open(await realpath(path), constants.O_RDONLY | constants.O_NONBLOCK)
    try {
      const s = await h.stat()
      if (!s.isFile())
        throw new VmError(`${path} is no regular file, so no image can be taken from it.`, { code: 'image-invalid' })
      return { size: s.size, mtime_ms: s.mtimeMs, ino: s.ino }
    } finally {
      await h.close()
    }
  } catch (e) {
    if (e instanceof VmError) throw e
    // the guard knows why a file may be hidden from a service
    const why = await openBeneath(path, ['/']).then(
      (f) => f.close(),
      (error) => error,
    )
    throw new VmError(`The image ${path} cannot be read: ${(e as Error).message}.`, {
      code: 'image-not-found',
      hint: why instanceof ImageError && why.hint ? why.hint : 'Check the rights of the file and its folders.',
      cause: e,
    })
  }
}

/**
 * Clones or copies a file to `to`. Links are followed: whoever configures a template may say what it is.
 * @throws {VmError} image-not-found, storage (transient, when the file changed meanwhile); the signal's reason
 */
export async function takeFile(path: string, to: string, space: SpaceGate, hooks: ImageHooks): Promise<FileVersion> {
  const before = await versionOfFile(path)
  const source = await openBeneath(await realpath(path), ['/']).catch((e) => {
    throw e instanceof ImageError ? new VmError(e.message, { code: 'image-not-found', hint: e.hint, cause: e }) : e
  })
  try {
    hooks.progress?.(0, before.size, { doing: `copies ${path}` })
    await cloneOrCopy(`/proc/self/fd/${source.handle.fd}`, source.handle.fd, to, before.size, space, hooks)
  } finally {
    await source.close()
  }
  const after = await versionOfFile(path)
  if (after.size !== before.size || after.mtime_ms !== before.mtime_ms || after.ino !== before.ino)
    throw new VmError(`The image ${path} changed while it was copied.`, {
      code: 'storage',
      transient: true,
      hint: 'Wait until nobody writes to it any more.',
    })
  return after
}

/** @param fd the same file, open: a child copies it from there. Holes stay holes. */
export async function cloneOrCopy(
  from: string,
  fd: number,
  to: string,
  size: number,
  space: SpaceGate,
  hooks: ImageHooks,
): Promise<'clone' | 'copy'> {
  try {
    await copyFile(from, to, constants.COPYFILE_FICLONE_FORCE | constants.COPYFILE_EXCL)
    return 'clone'
  } catch {
    await rm(to, { force: true })
  }
  await space.need(size)
  let stderr = ''
  const r = await runGroup(['cp', '--reflink=never', '--sparse=auto', '--', '/dev/fd/3', to], {
    signal: hooks.signal,
    extraFds: [fd],
    env: { LC_ALL: 'C' },
    ...(hooks.spawned ? { onSpawn: hooks.spawned } : {}),
    onStderr: (c) => {
      stderr = (stderr + c.toString('utf8')).slice(-2000)
    },
  })
  if (r.exit_code === 0 && !hooks.signal.aborted) return 'copy'
  await rm(to, { force: true })
  hooks.signal.throwIfAborted()
  throw new VmError(`The image could not be copied to ${to}: ${stderr.trim() || `cp was ended by ${r.signal}`}.`, {
    code: 'storage',
    transient: true,
    hint: 'Check the free space there and the kernel log.',
  })
}
