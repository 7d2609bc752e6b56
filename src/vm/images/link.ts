/** Puts an image of the cache beside the disks of a VM. */
import { type FileHandle, link as hardLink, open, rename, rm, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { VmError } from '../types.ts'
import { codeOf, storage, syncFolder, temporary } from './files.ts'
import { hashes } from './hash.ts'
import { spaceGate } from './space.ts'
import { cloneOrCopy } from './take.ts'
import type { CachedImage, ImageHooks } from './types.ts'

/** Where a hard link cannot be made: another file system, none of it, too many of them, or a file that is not ours (fs.protected_hardlinks). */
const NO_LINK = new Set(['EXDEV', 'EPERM', 'EACCES', 'EMLINK', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS'])

export async function linkImage(
  image: CachedImage,
  target: string,
  o: ImageHooks & { replace?: boolean; reserve_bytes: number },
): Promise<'link' | 'clone' | 'copy'> {
  try {
    const source = await open(image.path, 'r').catch((e) => {
      throw codeOf(e) === 'ENOENT' ? gone(image) : e
    })
    try {
      return await put(source, image, target, o)
    } finally {
      await source.close()
    }
  } catch (e) {
    throw storage(e, `The image ${image.name} could not be put at ${target}`)
  }
}

async function put(
  source: FileHandle,
  image: CachedImage,
  target: string,
  o: ImageHooks & { replace?: boolean; reserve_bytes: number },
): Promise<'link' | 'clone' | 'copy'> {
  o.signal.throwIfAborted()
  const there = await stat(target).catch((e) => {
    if (codeOf(e) === 'ENOENT') return undefined
    throw e
  })
  if (there) {
    const own = await source.stat()
    if (there.ino === own.ino && there.dev === own.dev) return 'link'
    if (await holds(target, image, o)) return 'copy'
    if (!o.replace)
      throw new VmError(`${target} exists and is not the image ${image.name} that should be put there.`, {
        code: 'vm-conflict',
        hint: 'The disks of the VM lie on top of it. Delete the VM first if it is to be made anew.',
      })
  }
  const tmp = temporary(target)
  const how = await make(source, image, tmp, o)
  try {
    await rename(tmp, target)
  } finally {
    await rm(tmp, { force: true })
  }
  await syncFolder(dirname(target))
  return how
}

async function make(
  source: FileHandle,
  image: CachedImage,
  tmp: string,
  o: ImageHooks & { reserve_bytes: number },
): Promise<'link' | 'clone' | 'copy'> {
  try {
    await hardLink(image.path, tmp)
    const [made, own] = [await stat(tmp), await source.stat()]
    if (made.ino === own.ino) return 'link'
    await rm(tmp, { force: true })
    throw gone(image)
  } catch (e) {
    if (codeOf(e) === 'ENOENT' && (await stat(image.path).catch(() => undefined)) === undefined) throw gone(image)
    if (!NO_LINK.has(codeOf(e) ?? '')) throw e
    o.log?.(
      `No hard link of the image ${image.name} can be made (${codeOf(e)}): it is cloned or copied, and the cache does not know that the VM uses it.`,
    )
  }
  o.progress?.(0, image.size_bytes, { doing: 'copies the image' })
  const how = await cloneOrCopy(
    image.path,
    source.fd,
    tmp,
    image.size_bytes,
    spaceGate(dirname(tmp), o.reserve_bytes, async () => {}),
    o,
  )
  const h = await open(tmp, 'r')
  try {
    await h.chmod(0o444)
    await h.sync()
  } finally {
    await h.close()
  }
  return how
}

/** Whether a file that is no link of the image has its content. */
async function holds(path: string, image: CachedImage, o: ImageHooks): Promise<boolean> {
  const h = await open(path, 'r')
  try {
    if ((await h.stat()).size !== image.size_bytes) return false
    o.progress?.(0, image.size_bytes, { doing: 'compares the image that is there' })
    return (await hashes(h, ['sha256'], o)).sha256 === image.sha256
  } finally {
    await h.close()
  }
}

function gone(image: CachedImage): VmError {
  return new VmError(`The image ${image.name} (${image.path}) was removed from the cache meanwhile.`, {
    code: 'image-not-found',
    transient: true,
    hint: 'The next try gets it again.',
  })
}
