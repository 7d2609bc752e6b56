// Real disks with content that tells which disk it is.
import { createHash } from 'node:crypto'
import { open, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'

export interface TestDisk {
  /** the disk in the format that was asked for */
  path: string
  format: string
  /** the same content, raw: what every conversion must equal */
  raw: string
  size_bytes: number
  sha256: string
}

/**
 * Makes a disk of `size_mib` whose content follows from `seed`: a marked first sector, blocks of noise spread over the
 * disk, holes between them.
 */
export async function makeDisk(
  dir: string,
  name: string,
  o: { format?: string; options?: string; size_mib?: number; seed?: string; dense?: boolean } = {},
): Promise<TestDisk> {
  const format = o.format ?? 'vmdk'
  const size = (o.size_mib ?? 8) * 1024 * 1024
  const raw = join(dir, `${name}.src.raw`)
  {
    await using file = await open(raw, 'w')
    await file.truncate(size)
    const step = o.dense ? 256 * 1024 : 1024 * 1024
    for (let at = 0; at < size; at += step)
      await file.write(noise(`${o.seed ?? name}:${at}`, 128 * 1024), 0, undefined, at)
    await file.write(`vmspool test disk ${o.seed ?? name}\n`, 0)
  }
  const path = join(dir, `${name}.${extension(format)}`)
  if (format === 'raw') await execa('cp', ['--sparse=always', raw, path])
  else {
    const options = o.options ?? (format === 'vmdk' ? 'subformat=streamOptimized' : undefined)
    await execa('qemu-img', ['convert', '-f', 'raw', '-O', format, ...(options ? ['-o', options] : []), raw, path])
  }
  const sha256 = createHash('sha256')
    .update(await readFile(path))
    .digest('hex')
  return { path, format: format === 'vpc' ? 'vhd' : format, raw, size_bytes: (await stat(path)).size, sha256 }
}

function extension(format: string): string {
  return format === 'vpc' ? 'vhd' : format
}

/** Reproducible incompressible bytes: SHAKE-256 of the seed. */
function noise(seed: string, bytes: number): Buffer {
  return createHash('shake256', { outputLength: bytes }).update(seed).digest()
}

/** Whether an image holds the very bytes of a test disk, as `qemu-img compare` reads them, and whether qemu-img finds it sound. */
export async function holds(image: string, format: string, disk: TestDisk): Promise<boolean> {
  if (format === 'qcow2') await execa('qemu-img', ['check', '-q', '-f', 'qcow2', image])
  const r = await execa('qemu-img', ['compare', '-q', '-f', format, '-F', 'raw', image, disk.raw], { reject: false })
  if (r.exitCode === 0) return true
  if (r.exitCode === 1) return false
  throw new Error(`qemu-img compare could not read ${image}: ${r.stderr}`)
}
