import { stat } from 'node:fs/promises'
import { basename, dirname } from 'node:path'
import {
  checkImage,
  convertImage,
  fileSource,
  graphBuilder,
  measure,
  openBeneath,
  parseQcow2,
  type QemuImgOptions,
  qemuImg,
} from '../images/index.ts'
import { freeBytes, imageError, writeError } from './disk-errors.ts'
import { cloneFile, exists, placeWhole } from './disk-files.ts'
import { type DiskSource, openSource, type OpenSource, type OwnImage } from './disk-source.ts'
import { VmError, type VmHooks } from './types.ts'

export { linkWhole, takesDirectIo } from './disk-files.ts'
export { type DiskSource, lookAtSource, type OwnImage } from './disk-source.ts'

/*
 * Disks of a VM. Each appears under its name when it is whole and on the disk; one that is there already is taken as it is, so that an attempt
 * goes on where an earlier one was ended. MUST be called only for a folder that is this VM's: a disk that another VM left there would be taken too.
 */

interface Making {
  /** absolute; its folder exists and is the VM's */
  path: string
  hooks: VmHooks
}

/** Bounds for qemu-img when it only writes or reads metadata, as for looking at an untrusted header. */
const SMALL_WORK = { as_bytes: 1_000_000_000, cpu_s: 60 } as const

/**
 * A thin qcow2 on top of `base`, which MUST lie in the same folder, and is named by its name alone, so that the folder can be moved. It
 * has `size_bytes`, or as many as the base.
 * @returns the size that the guest sees
 * @throws {VmError} vm-invalid for a size below the base's; image-invalid, storage
 */
export async function makeOverlay(o: Making & { base: OwnImage; size_bytes?: number }): Promise<number> {
  if (dirname(o.base.path) !== dirname(o.path))
    throw new TypeError(`The base ${o.base.path} does not lie beside its overlay ${o.path}.`)
  await using base = await openSource(o.base, { signal: o.hooks.signal })
  const size = wanted(o.size_bytes, base.size_bytes, o.base.path)
  return await finish(o, 'qcow2', size, basename(o.base.path), 'The thin disk', async (temporary) => {
    const backing = ['-F', o.base.format, '-b', basename(o.base.path)]
    await qemuImg(['create', '-q', '-f', 'qcow2', ...backing, temporary, String(size)], {
      ...how(o),
      limits: SMALL_WORK,
      what: `make an overlay on ${o.base.path}`,
    })
  })
}

/** An empty disk. @throws {VmError} storage */
export async function makeEmpty(o: Making & { format: 'qcow2' | 'raw'; size_bytes: number }): Promise<number> {
  const size = sectors(o.size_bytes)
  return await finish(o, o.format, size, undefined, 'The empty disk', async (temporary) => {
    await qemuImg(['create', '-q', '-f', o.format, temporary, String(size)], {
      ...how(o),
      limits: SMALL_WORK,
      what: `make an empty disk of ${size} bytes`,
    })
  })
}

/**
 * A copy that shares nothing with `from` but, where the filesystem can, blocks. It may be larger than the original.
 * @returns the size that the guest sees
 * @throws {VmError} vm-invalid for a size below the original's; image-not-found, image-invalid, storage
 */
export async function makeCopy(
  o: Making & { from: DiskSource; format: 'qcow2' | 'raw'; size_bytes?: number; max_virtual_size?: number },
): Promise<number> {
  await using source = await openSource(o.from, {
    signal: o.hooks.signal,
    ...(o.max_virtual_size === undefined ? {} : { max_virtual_size: o.max_virtual_size }),
  })
  for (const w of source.image.warnings) o.hooks.log('agent', `${w}\n`)
  const size = wanted(o.size_bytes, source.size_bytes, o.from.path)
  return await finish(o, o.format, size, undefined, 'The copy', async (temporary) => {
    if (!(await clone(o, source, temporary))) await convert(o, source, temporary)
    if (size > source.size_bytes) await grow(o, temporary, o.format, size)
  })
}

/** Shares the original's blocks. Not when it is compressed: such a disk reads three times slower for ever. @returns false when it was not done */
async function clone(o: Making & { format: 'qcow2' | 'raw' }, source: OpenSource, temporary: string): Promise<boolean> {
  // a raw image of another length than whole sectors would give another size than was looked at
  if (source.format !== o.format || (source.format === 'raw' && source.file.stat.size % 512 !== 0)) return false
  if (!(await cloneFile(`/proc/self/fd/${source.file.handle.fd}`, temporary))) return false
  if (source.format === 'raw') return true
  // its owner may have rewritten the original since it was looked at: what counts is what we have now
  const own = await openSource({ path: temporary, format: 'qcow2' }, { signal: o.hooks.signal })
  await own[Symbol.asyncDispose]()
  if (own.size_bytes !== source.size_bytes) return false
  const found = await checkImage(temporary, 'qcow2', how(o))
  return (found.compressed_clusters ?? 0) === 0
}

async function convert(o: Making & { format: 'qcow2' | 'raw' }, source: OpenSource, temporary: string): Promise<void> {
  const scratch = dirname(o.path)
  const graph = async <T>(use: (g: { node: Record<string, unknown>; fds: number[] }) => Promise<T>): Promise<T> => {
    const builder = graphBuilder(scratch)
    try {
      return await use({ node: await source.image.node(builder), fds: builder.fds() })
    } finally {
      await builder.close()
    }
  }
  // as qcow2 in either case: for raw it would be counted as if it had no holes
  const needed = await graph((g) => measure(g, 'qcow2', how(o)))
  const free = await freeBytes(o.path)
  if (free !== undefined && free < needed)
    throw new VmError(
      `There is not enough space for a copy of ${JSON.stringify(source.file.path)}: about ${needed} bytes are needed, but the filesystem of ${JSON.stringify(scratch)} has ${free} bytes free.`,
      {
        code: 'storage',
        transient: true,
        phase: 'disks',
        hint: 'Free space there, use copy: overlay, or let vm.dir lie elsewhere; the job is tried again.',
      },
    )
  const total = source.size_bytes
  await graph((g) =>
    convertImage(
      {
        graph: g,
        output: temporary,
        format: o.format,
        compress: false,
        compression_type: 'zlib',
        threads: 8,
        onProgress: (percent) =>
          o.hooks.progress({
            phase: 'disks',
            message: `copying ${basename(source.file.path)}`,
            percent,
            bytes_done: Math.round((total * percent) / 100),
            bytes_total: total,
          }),
      },
      how(o),
    ),
  )
  const now = await source.file.handle.stat()
  if (now.size !== source.file.stat.size || now.mtimeMs !== source.file.stat.mtimeMs)
    throw new VmError(`The image ${JSON.stringify(source.file.path)} changed while it was copied.`, {
      code: 'image-invalid',
      transient: true,
      phase: 'disks',
      hint: 'Wait until nobody writes to it; the job is tried again.',
    })
}

async function grow(o: Making, path: string, format: 'qcow2' | 'raw', size: number): Promise<void> {
  await qemuImg(['resize', '-q', '-f', format, path, String(size)], {
    ...how(o),
    limits: SMALL_WORK,
    what: `make ${path} ${size} bytes large`,
  })
}

/** Makes the disk, or takes the one that is there, which may have to grow. */
async function finish(
  o: Making,
  format: 'qcow2' | 'raw',
  size: number,
  base: string | undefined,
  what: string,
  make: (temporary: string) => Promise<void>,
): Promise<number> {
  try {
    if (!(await exists(o.path)) && (await placeWhole(o.path, make)) === 'made') return size
    return await takeThere(o, format, size, base)
  } catch (e) {
    o.hooks.signal.throwIfAborted()
    throw await writeError(imageError(e), { path: o.path, what: `${what} ${basename(o.path)}` })
  }
}

async function takeThere(o: Making, format: 'qcow2' | 'raw', size: number, base: string | undefined): Promise<number> {
  const found = await describe(o.path, format)
  // libvirt has given it to the hypervisor's user: it is in use, so it was whole
  if (found === undefined) return size
  if (found.base !== base)
    throw new VmError(
      `The disk ${JSON.stringify(o.path)} is there already and ${found.base === undefined ? 'lies on no other image' : `lies on ${JSON.stringify(found.base)}`}, but ${base === undefined ? 'a disk of its own' : `one on ${JSON.stringify(base)}`} is wanted.`,
      {
        code: 'vm-conflict',
        phase: 'disks',
        hint: 'It was made for something else. Delete that VM, or move the file away.',
      },
    )
  if (found.size > size)
    throw new VmError(
      `The disk ${JSON.stringify(o.path)} is there already and has ${found.size} bytes; it cannot be made smaller (${size}).`,
      { code: 'vm-invalid', phase: 'disks', hint: 'Ask for at least its size.' },
    )
  if (found.size < size) await grow(o, o.path, format, size)
  return size
}

/** undefined when we may not read it */
async function describe(path: string, format: 'qcow2' | 'raw'): Promise<{ size: number; base?: string } | undefined> {
  if (format === 'raw') return { size: (await stat(path)).size }
  const file = await openBeneath(path, [dirname(path)]).catch((e: { code?: string }) => {
    if (e.code === 'permission') return undefined
    throw e
  })
  if (file === undefined) return undefined
  try {
    const h = await parseQcow2(fileSource(file.handle, file.stat.size))
    return { size: h.virtual_size, ...(h.backing_file === undefined ? {} : { base: h.backing_file }) }
  } finally {
    await file.close()
  }
}

/** Up, never down. */
function wanted(asked: number | undefined, least: number, path: string): number {
  const size = asked === undefined ? least : sectors(asked)
  if (size >= least) return size
  throw new VmError(
    `A disk of ${size} bytes is asked for, but the image ${JSON.stringify(path)} holds one of ${least} bytes, and making it smaller would cut off its end.`,
    { code: 'vm-invalid', phase: 'disks', hint: `Ask for at least ${least} bytes, or leave the size out.` },
  )
}

const sectors = (bytes: number) => Math.ceil(bytes / 512) * 512

function how(o: Making): QemuImgOptions & { phase: string } {
  return { signal: o.hooks.signal, cwd: dirname(o.path), log: o.hooks.log, spawned: o.hooks.spawned, phase: 'disks' }
}
