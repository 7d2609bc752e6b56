// The disk of the hosts of the NFS soak: Debian with the kernel's NFS server and client, the project and its own Node. One image, booted
// several times with different roles; what a host writes to it is thrown away.
import { cp, mkdir, mkdtemp, readFile, readdir, rename, rm, stat, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { execa } from 'execa'

const home = resolve(import.meta.dirname, '../..')
const PACKAGES = [
  'linux-image-cloud-amd64',
  ...[
    'nfs-kernel-server',
    'nfs-common',
    'rpcbind',
    'kmod',
    'iproute2',
    'procps',
    'perl-base',
    'libstdc++6',
    'libatomic1',
    'gzip',
  ],
]

/** @returns a raw ext4 without a partition table, and the kernel that is in it */
export async function guestImage(dir: string, say: (line: string) => void): Promise<{ disk: string; kernel: string }> {
  const root = await debian(say)
  const kernel = join(root, 'boot', (await readdir(join(root, 'boot'))).find((f) => f.startsWith('vmlinuz-'))!)
  const project = join(root, 'opt/vmspool')
  await rm(project, { recursive: true, force: true })
  await mkdir(project, { recursive: true })
  // What is built starts in half the time, which counts where a processor is emulated; the rig itself runs from its sources.
  say('build')
  await execa('node', ['scripts/build.ts'], { cwd: home, preferLocal: true })
  for (const part of ['bin', 'dist', 'schemas', 'package.json', 'systemd'])
    await copy(join(home, part), join(project, part))
  const rig = join(root, 'opt/rig')
  await rm(rig, { recursive: true, force: true })
  for (const part of ['src', 'test', 'package.json']) await copy(join(home, part), join(rig, part))
  await symlink('/opt/vmspool/node_modules', join(rig, 'node_modules'))
  const { packages } = JSON.parse(await readFile(join(home, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { dev?: boolean; devOptional?: boolean }>
  }
  for (const [path, p] of Object.entries(packages)) {
    if (!path.startsWith('node_modules/') || p.dev || p.devOptional || path.includes('/node_modules/', 13)) continue
    if (await stat(join(home, path)).catch(() => undefined)) await copy(join(home, path), join(project, path))
  }
  await copy(join(home, 'node_modules/.bin'), join(project, 'node_modules/.bin'))
  await warm(root)
  const disk = join(dir, 'host.img')
  say('mkfs.ext4: Debian and the project as one disk')
  await execa('mkfs.ext4', ['-q', '-F', '-d', root, disk, '2600M'])
  return { disk, kernel }
}

/** Compiled code is kept in the image: without it each agent compiles for half a minute. Its mounts end with their namespace. */
async function warm(root: string): Promise<void> {
  const script = [
    `mount -t devtmpfs dev ${root}/dev`,
    `exec chroot ${root} /bin/sh -c '${[
      'cd /tmp; mount -t proc proc /proc',
      'export PATH=/opt/vmspool/bin:/usr/sbin:/usr/bin:/sbin:/bin',
      'vmspool agent warm --root /tmp/warm >/tmp/warm.log & agent=$!',
      'for n in $(seq 300); do grep -q agent.ready /tmp/warm.log && break; sleep 0.2; done',
      'vmspool fsck --root /tmp/warm --instance warm',
      'kill $agent; wait $agent; rm -rf /tmp/warm /tmp/warm.log /run/vmspool',
    ].join('; ')}'`,
  ].join(' && ')
  await execa('unshare', ['-m', '-p', '--fork', '--kill-child', '--propagation', 'private', 'sh', '-c', script])
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
