// The disk of the hosts of the NFS soak: Debian with the kernel's NFS server and client, the project and its own Node. One image, booted
// several times with different roles; what a host writes to it is thrown away.
import { cp, mkdir, mkdtemp, readFile, readdir, rename, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { execa } from 'execa'

const home = resolve(import.meta.dirname, '../..')
const PACKAGES = [
  'linux-image-cloud-amd64',
  ...['nfs-kernel-server', 'nfs-common', 'rpcbind', 'kmod', 'iproute2', 'procps', 'perl-base', 'libstdc++6', 'libatomic1', 'gzip'],
]

/** @returns a raw ext4 without a partition table, and the kernel that is in it */
export async function guestImage(dir: string, say: (line: string) => void): Promise<{ disk: string; kernel: string }> {
  const root = await debian(say)
  const kernel = join(root, 'boot', (await readdir(join(root, 'boot'))).find((f) => f.startsWith('vmlinuz-'))!)
  const project = join(root, 'opt/vmspool')
  await rm(project, { recursive: true, force: true })
  await mkdir(project, { recursive: true })
  for (const part of ['bin', 'src', 'schemas', 'test', 'package.json', 'systemd'])
    await copy(join(home, part), join(project, part))
  const { packages } = JSON.parse(await readFile(join(home, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { dev?: boolean; devOptional?: boolean }>
  }
  for (const [path, p] of Object.entries(packages)) {
    if (!path.startsWith('node_modules/') || p.dev || p.devOptional || path.includes('/node_modules/', 13)) continue
    if (await stat(join(home, path)).catch(() => undefined)) await copy(join(home, path), join(project, path))
  }
  await copy(join(home, 'node_modules/.bin'), join(project, 'node_modules/.bin'))
  const disk = join(dir, 'host.img')
  say('mkfs.ext4: Debian and the project as one disk')
  await execa('mkfs.ext4', ['-q', '-F', '-d', root, disk, '2600M'])
  return { disk, kernel }
}

async function copy(from: string, to: string): Promise<void> {
  await mkdir(dirname(to), { recursive: true })
  await cp(from, to, { recursive: true, verbatimSymlinks: true })
}

/** debootstrap takes minutes, so its folder is kept where the guests of other sections are kept. */
async function debian(say: (line: string) => void): Promise<string> {
  const cache = process.env.VMSPOOL_GUEST_CACHE ?? tmpdir()
  await mkdir(cache, { recursive: true })
  const root = join(cache, 'nfs-host')
  if (await stat(root).catch(() => undefined)) return root
  const work = await mkdtemp(join(cache, 'nfs-host-'))
  try {
    say('debootstrap: Debian 12 with an NFS server (some minutes)')
    const made = join(work, 'root')
    await execa('debootstrap', ['--variant=minbase', `--include=${PACKAGES.join(',')}`, 'bookworm', made])
    await rm(join(made, 'var/cache/apt/archives'), { recursive: true, force: true })
    await rm(join(made, 'var/lib/apt/lists'), { recursive: true, force: true })
    await rename(made, root)
  } finally {
    await rm(work, { recursive: true, force: true })
  }
  return root
}
