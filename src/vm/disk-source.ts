import { dirname } from 'node:path'
import {
  checkSubmitter,
  detectFormat,
  fileSource,
  type GuardedImage,
  guardImage,
  ImageError,
  type OpenedFile,
  openBeneath,
  wholeFile,
} from '../images/index.ts'
import { imageError } from './disk-errors.ts'
import { type NamedFile, VmError } from './types.ts'

/** An image that is ours: the cache's, a job's result, a VM's own. */
export interface OwnImage {
  /** absolute */
  path: string
  format: 'qcow2' | 'raw'
}
export type DiskSource = OwnImage | NamedFile

/** At most so many bytes may an image claim to hold, unless said otherwise: the bound of conversions (`convert.max_virtual_size`). */
const MOST_BYTES = 64 * 2 ** 40

export interface OpenSource extends AsyncDisposable {
  file: OpenedFile
  format: 'qcow2' | 'raw'
  image: GuardedImage
  /** what a guest sees */
  size_bytes: number
}

/**
 * Opens an image once and checks it; from then on it is read through its descriptor alone. What somebody named is opened with his rights, by
 * walking down without following a link.
 * @throws {VmError} image-not-found, image-invalid, storage
 */
export async function openSource(
  from: DiskSource,
  o: { signal: AbortSignal; max_virtual_size?: number },
): Promise<OpenSource> {
  const named = 'import_roots' in from
  let file: OpenedFile | undefined
  try {
    file = await openBeneath(from.path, named ? from.import_roots : [dirname(from.path)])
    if (named && from.submitter) await checkSubmitter(file, from.submitter)
    const format = from.format ?? (await formatOf(file))
    const image = await guardImage(wholeFile(file, refuseSibling), format, {
      maxVirtualSize: o.max_virtual_size ?? MOST_BYTES,
      signal: o.signal,
    })
    const { close } = file
    return { file, format, image, size_bytes: image.virtual_size, [Symbol.asyncDispose]: close }
  } catch (e) {
    await file?.close()
    o.signal.throwIfAborted()
    throw imageError(e)
  }
}

/** What an image is and how much a guest would see of it, before anything is made of it. */
export async function lookAtSource(
  from: DiskSource,
  o: { signal: AbortSignal; max_virtual_size?: number },
): Promise<{ format: 'qcow2' | 'raw'; size_bytes: number }> {
  await using source = await openSource(from, o)
  return { format: source.format, size_bytes: source.size_bytes }
}

/** What has no signature is raw. A raw disk whose guest wrote a signature into it is read as that, and guarded as such: name the format then. */
async function formatOf(file: OpenedFile): Promise<'qcow2' | 'raw'> {
  const found = await detectFormat(fileSource(file.handle, file.stat.size))
  if (found === undefined || found === 'raw' || found === 'qcow2') return found ?? 'raw'
  throw new VmError(
    `The image ${JSON.stringify(file.path)} looks like ${found}; a VM's disk is made from qcow2 or raw.`,
    {
      code: 'image-invalid',
      hint: 'Convert it first (a convert job), and create the VM with "from_job"; or name its format if it is a raw disk after all.',
    },
  )
}

function refuseSibling(f: OpenedFile): never {
  throw new ImageError(`${JSON.stringify(f.path)} belongs to no disk of one file.`, { code: 'reference-refused' })
}
