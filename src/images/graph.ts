import { constants } from 'node:fs'
import { type FileHandle, open, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { ImageError } from './errors.ts'

/**
 * qemu's block graph over files that we opened. A child of ours gets the files as descriptors 3, 4, … and knows them by
 * `/dev/fd/N` alone.
 *
 * An image's owner can rewrite its header between our check and qemu's look at it. So every area from which qemu would take
 * the name of another file is *pinned*: read once, checked, written into a private file, and put in front of the rest of the image by
 * a flat VMDK descriptor of our own (qemu 7.2 has no driver that concatenates). What was checked is what qemu reads.
 */
export interface Graph {
  /** qemu's node as plain data, for `json:` */
  node: Record<string, unknown>
  /** descriptors to hand on, in order from 3 */
  fds: number[]
}

export interface GraphBuilder {
  /** hands on a file; gives its `/dev/fd/N` */
  file(fd: number): string
  /** hands on a private file with this content, which is deleted at once */
  text(content: string | Buffer): Promise<string>
  /** hands on a private sparse file of zeros */
  zeros(size: number): Promise<string>
  fds(): number[]
  close(): Promise<void>
}

/** @param scratch a folder of ours; the private files are gone from it as soon as they are open */
export function graphBuilder(scratch: string): GraphBuilder {
  const list: number[] = []
  const own: FileHandle[] = []
  let count = 0
  const file = (fd: number): string => {
    list.push(fd)
    return `/dev/fd/${2 + list.length}`
  }
  const make = async (fill: (h: FileHandle) => Promise<unknown>): Promise<string> => {
    const path = join(scratch, `.graph-${process.pid}-${list.length}-${count++}`)
    const h = await open(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600)
    own.push(h)
    await unlink(path)
    await fill(h)
    return file(h.fd)
  }
  return {
    file,
    text: (content) => make((h) => h.writeFile(content)),
    zeros: (size) => make((h) => h.truncate(size)),
    fds: () => [...list],
    close: async () => {
      await Promise.allSettled(own.map((h) => h.close()))
    },
  }
}

/** One extent of a descriptor that we write. Offsets and lengths are sectors of 512 bytes. */
export interface OwnExtent {
  type: 'FLAT' | 'SPARSE'
  sectors: number
  file: string
  offset: number
}

/** A VMDK descriptor that holds nothing but our own names and numbers. */
export function ownDescriptor(extents: readonly OwnExtent[]): string {
  const lines = extents.map((e) => `RW ${e.sectors} ${e.type} "${e.file}"${e.type === 'FLAT' ? ` ${e.offset}` : ''}`)
  // no empty line before an extent: qemu 7.2 would take that extent twice
  return `# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="twoGbMaxExtentSparse"\n${lines.join('\n')}\n`
}

/**
 * A node that reads `pinned` (checked bytes, a multiple of 512) and after it the rest of the window.
 * `offset` and `size` are the window in the file, in bytes; `offset` is a multiple of 512.
 */
export async function pinnedNode(
  b: GraphBuilder,
  o: { fd: number; offset: number; size: number; pinned: Buffer },
): Promise<{ descriptor: string; node: Record<string, unknown> }> {
  if (o.offset % 512 !== 0 || o.pinned.length % 512 !== 0) {
    throw new ImageError(`An image inside an archive starts at byte ${o.offset}, which is no multiple of 512.`, {
      code: 'bad-archive',
    })
  }
  const total = Math.ceil(o.size / 512)
  const head = Math.min(total, o.pinned.length / 512)
  const extents: OwnExtent[] = [
    { type: 'FLAT', sectors: head, file: await b.text(o.pinned.subarray(0, head * 512)), offset: 0 },
  ]
  if (total > head)
    extents.push({ type: 'FLAT', sectors: total - head, file: b.file(o.fd), offset: o.offset / 512 + head })
  const descriptor = await b.text(ownDescriptor(extents))
  return { descriptor, node: { driver: 'vmdk', file: { driver: 'file', filename: descriptor } } }
}

/** A plain window of a file: the file itself, or a part of it at an offset. */
export function windowNode(
  b: GraphBuilder,
  o: { fd: number; offset: number; size: number; whole: boolean },
): Record<string, unknown> {
  const file = { driver: 'file', filename: b.file(o.fd) }
  return o.whole ? file : { driver: 'raw', offset: o.offset, size: o.size, file }
}
