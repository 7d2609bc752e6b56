// The disks that are converted: real files, since random bytes compress and deduplicate like nothing that a VM holds.
import { mkdir, readdir, lstat, rename, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { exportOva } from '../test/support/export-ova.ts'

export interface BenchDisk {
  capacity_bytes: number
  /** what the raw image allocates */
  allocated_bytes: number
  /** grains that the streamOptimized VMDK holds */
  grains: number
  raw: string
  stream: string
  ova: string
}

const GIB = 2 ** 30

/**
 * A disk of `gib` GiB with an ext4 that half of which is files from this host's /usr, and its streamOptimized VMDK, alone and in an
 * OVA with a manifest. Kept in `dir`, which may be used again.
 */
export async function benchDisk(dir: string, gib: number, say: (line: string) => void): Promise<BenchDisk> {
  const home = join(dir, `disk-${gib}g`)
  const raw = join(home, 'disk.raw')
  const stream = join(home, 'disk.vmdk')
  const capacity_bytes = gib * GIB
  if (!(await stat(home).catch(() => undefined))) {
    const work = `${home}.making`
    await rm(work, { recursive: true, force: true })
    await mkdir(work, { recursive: true })
    say(`Making a disk of ${gib} GiB, half of it files …`)
    const stage = join(work, 'stage')
    await mkdir(stage)
    const files = await chooseFiles('/usr', capacity_bytes / 2)
    await writeFile(join(work, 'list'), files.join('\0'))
    await execa('sh', ['-c', 'tar -C / --null -T ../list -cf - | tar -xf -'], { cwd: stage })
    const temp = { raw: join(work, 'disk.raw'), stream: join(work, 'disk.vmdk') }
    await writeFile(temp.raw, '')
    await truncate(temp.raw, capacity_bytes)
    // without a journal and lazily zeroed tables what is allocated is the files and little else
    await execa('mkfs.ext4', ['-q', '-F', '-O', '^has_journal', '-d', stage, temp.raw])
    await rm(stage, { recursive: true })
    say('Exporting it as a streamOptimized VMDK and as an OVA …')
    await execa('qemu-img', [
      'convert',
      '-O',
      'vmdk',
      '-o',
      'subformat=streamOptimized',
      ...from(temp.raw),
      temp.stream,
    ])
    await exportOva('disk', [{ path: temp.stream, capacity_bytes }])
    await execa('sync', ['-f', work])
    await rename(work, home)
  }
  const { blocks } = await stat(raw)
  const grains = await grainCount(raw)
  return { capacity_bytes, allocated_bytes: blocks * 512, grains, raw, stream, ova: join(home, 'disk.ova') }
}

function from(raw: string): string[] {
  return ['-f', 'raw', raw]
}

/** The raw disk in another format, made once. */
export async function asFormat(
  disk: BenchDisk,
  o: { file: string; driver: string; options?: string },
): Promise<string> {
  const path = join(disk.raw, '..', o.file)
  if (!(await stat(path).catch(() => undefined))) {
    const temp = `${path}.making`
    await execa('qemu-img', [
      'convert',
      '-O',
      o.driver,
      ...(o.options ? ['-o', o.options] : []),
      ...from(disk.raw),
      temp,
    ])
    await execa('sync', [temp])
    await rename(temp, path)
  }
  return path
}

/** Regular files below `root` in order of name, until their sizes add up to `bytes`; the same on every run of one host. */
async function chooseFiles(root: string, bytes: number): Promise<string[]> {
  const chosen: string[] = []
  let sum = 0
  const walk = async (dir: string): Promise<void> => {
    for (const e of (await readdir(dir, { withFileTypes: true })).sort((a, b) => (a.name < b.name ? -1 : 1))) {
      if (sum >= bytes) return
      const path = join(dir, e.name)
      if (e.isDirectory()) await walk(path)
      else if (e.isFile()) {
        const { size } = await lstat(path)
        // one huge file would make the disk of a single kind of data
        if (size > bytes / 16) continue
        chosen.push(path.slice(1))
        sum += Math.ceil(size / 4096) * 4096
      }
    }
  }
  await walk(root)
  return chosen
}

/** Grains of 64 KiB in which the disk has data, as qemu-img maps it. */
async function grainCount(raw: string): Promise<number> {
  const { stdout } = await execa('qemu-img', ['map', '-f', 'raw', '--output=json', raw], { maxBuffer: 2 ** 28 })
  let grains = 0
  let last = -1
  for (const e of JSON.parse(stdout) as { start: number; length: number; zero: boolean }[]) {
    if (e.zero) continue
    const a = Math.max(last + 1, Math.floor(e.start / 65536))
    const b = Math.floor((e.start + e.length - 1) / 65536)
    if (b >= a) grains += b - a + 1
    last = Math.max(last, b)
  }
  return grains
}

/** A disk of 1 TiB with next to nothing on it: what the tables alone cost. */
export async function sparseDisk(dir: string): Promise<string> {
  const path = join(dir, 'sparse-1t.vmdk')
  if (!(await stat(path).catch(() => undefined))) {
    const raw = join(dir, 'sparse-1t.raw')
    await writeFile(raw, '')
    await truncate(raw, 2 ** 40)
    await execa('mkfs.ext4', ['-q', '-F', '-O', '^has_journal', '-E', 'lazy_itable_init=1', raw])
    await execa('qemu-img', [
      'convert',
      '-O',
      'vmdk',
      '-o',
      'subformat=streamOptimized',
      ...from(raw),
      `${path}.making`,
    ])
    await rm(raw)
    await rename(`${path}.making`, path)
  }
  return path
}
