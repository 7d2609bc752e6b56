/** What a disk file says of itself, for an entry that was lost: its size as the guest sees it, and what it lies on top of. */
import { open } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { parseQcow2, parseVdi } from '../images/formats/index.ts'
import { fileSource } from '../images/index.ts'
import type { VmDisk } from './types.ts'

/** @returns the disk as it is given when its file cannot be read: it may come back */
export async function withHeader(d: VmDisk): Promise<VmDisk> {
  try {
    await using file = await open(d.path, 'r')
    const { size } = await file.stat()
    const source = fileSource(file, size)
    if (d.format === 'raw') return { ...d, size_bytes: size }
    if (d.format === 'vdi') return { ...d, size_bytes: (await parseVdi(source)).virtual_size }
    const { virtual_size, backing_file } = await parseQcow2(source)
    const below = backing_file === undefined ? undefined : join(dirname(d.path), basename(backing_file))
    const base = below === undefined ? undefined : { path: below, format: await formatOf(below) }
    return { ...d, size_bytes: virtual_size, ...(base ? { base } : {}) }
  } catch {
    return d
  }
}

async function formatOf(path: string): Promise<'qcow2' | 'raw'> {
  await using file = await open(path, 'r')
  const { buffer } = await file.read(Buffer.alloc(4), 0, 4, 0)
  return buffer.toString('latin1') === 'QFI\xfb' ? 'qcow2' : 'raw'
}
