import { dirname, join } from 'node:path'
import { access } from 'node:fs/promises'
import { FormatError, listTar, MAX_OVF_BYTES, parseOvf, windowOf } from './formats/index.ts'
import { parseQcow2 } from './formats/qcow2.ts'
import type { ByteSource } from './formats/source.ts'
import { parseVdi } from './formats/vdi.ts'
import { parseVhd } from './formats/vhd.ts'
import { parseVhdx } from './formats/vhdx.ts'
import { parseVmdk } from './formats/vmdk.ts'
import { fileSource } from './source.ts'
import { isPlainName, openBeneath } from './walk.ts'

export interface DroppedDisk {
  /** what a manifest would call it */
  source_format: string
  /** names of other files in its folder that belong to it */
  parts: string[]
  /** why it does not look whole: it does not end as its format ends, or a part is missing */
  incomplete?: string
}

/**
 * Looks at a disk that was dropped without a manifest: whether it ends as its format ends, and which files belong to it.
 * Reads headers only, and never follows a name out of the folder. What is merely wrong, not short, is taken: its job then says why.
 * @throws {ImageError} when the file cannot be opened
 */
export async function inspectDroppedDisk(path: string): Promise<DroppedDisk> {
  const packed = /\.gz$/i.test(path)
  const name = packed ? path.slice(0, -3) : path
  const ext = name.slice(name.lastIndexOf('.') + 1).toLowerCase()
  const source_format = ext === 'img' ? 'raw' : ext
  const file = await openBeneath(path, ['/'])
  try {
    const source = fileSource(file.handle, file.stat.size)
    // whether gzip is whole shows at its very end only: the job will tell
    const parts = packed && file.stat.size > 0 ? [] : await partsOf(source, ext, path)
    return { source_format, parts }
  } catch (error) {
    if (!(error instanceof FormatError)) throw error
    const short = error.code === 'truncated'
    return { source_format, parts: [], ...(short ? { incomplete: error.message } : {}) }
  } finally {
    await file.close()
  }
}

async function partsOf(source: ByteSource, ext: string, path: string): Promise<string[]> {
  if (source.size === 0) throw new FormatError('truncated', 'The file is empty.')
  switch (ext) {
    case 'ova':
      await checkOva(source)
      return []
    case 'ovf': {
      const text = (await source.read(0, MAX_OVF_BYTES)).toString('utf8')
      if (!/<\/(\w+:)?Envelope>\s*$/.test(text))
        throw new FormatError('truncated', 'The OVF does not end with its Envelope.')
      const parts = parseOvf(text)
        .disks.map((d) => d.href)
        .filter(isPlainName)
      const mf = `${path.slice(path.lastIndexOf('/') + 1, -4)}.mf`
      if (await exists(join(dirname(path), mf))) parts.push(mf)
      return [...new Set(parts)]
    }
    case 'vmdk': {
      const vmdk = await parseVmdk(source)
      if (vmdk.kind === 'sparse') return []
      return [
        ...new Set(vmdk.descriptor.extents.map((e) => e.file).filter((f) => f !== undefined && isPlainName(f))),
      ] as string[]
    }
    case 'qcow2':
      await parseQcow2(source)
      return []
    case 'vhd':
      await parseVhd(source)
      return []
    case 'vhdx':
      await parseVhdx(source)
      return []
    case 'vdi':
      await parseVdi(source)
      return []
    default:
      return []
  }
}

/** An OVA is whole when every file that its OVF names is in it. */
async function checkOva(source: ByteSource): Promise<void> {
  const members = await listTar(source)
  const ovf = members.find((m) => /\.ovf$/i.test(m.name))
  if (!ovf) throw new FormatError('truncated', 'The archive has no .ovf member yet.')
  const text = (await windowOf(source, ovf.offset, ovf.size).read(0, MAX_OVF_BYTES)).toString('utf8')
  for (const disk of parseOvf(text).disks) {
    const member = members.find((m) => m.name === disk.href || m.name === `./${disk.href}`)
    if (!member || member.offset + member.size > source.size) {
      throw new FormatError('truncated', `The archive does not hold all of ${disk.href} yet.`)
    }
  }
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}
