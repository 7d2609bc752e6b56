// The disk of the hosts of the NFS soak: Debian with the kernel's NFS server and client for user-mode Linux, the built project and its own
// Node. One image for all roles; what a host writes to it is thrown away.
import { cp, mkdir, readdir, readFile, rm, stat } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { build } from 'esbuild'
import { execa } from 'execa'
import { debian } from '../support/debian-host.ts'

const home = resolve(import.meta.dirname, '../..')
/** of Debian's package user-mode-linux, of the version of its kernel */
const MODULES = '/usr/lib/uml/modules'
const PACKAGES = [
  ...['nfs-kernel-server', 'nfs-common', 'rpcbind', 'kmod', 'iproute2', 'procps', 'perl-base'],
  ...['libstdc++6', 'libatomic1', 'gzip'],
]

/** @returns a raw ext4 without a partition table */
export async function guestImage(dir: string, say: (line: string) => void): Promise<string> {
  const root = await debian('nfs-host', PACKAGES, say)
  const project = join(root, 'opt/vmspool')
  await rm(project, { recursive: true, force: true })
  await mkdir(project, { recursive: true })
  say('build')
  await execa('node', ['scripts/build.ts', '--no-types'], { cwd: home, preferLocal: true })
  for (const part of ['bin', 'dist', 'schemas', 'package.json', 'systemd'])
    await copy(join(home, part), join(project, part))
  const { packages } = JSON.parse(await readFile(join(home, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { dev?: boolean; devOptional?: boolean }>
  }
  for (const [path, p] of Object.entries(packages)) {
    if (!path.startsWith('node_modules/') || p.dev || p.devOptional || path.includes('/node_modules/', 13)) continue
    if (await stat(join(home, path)).catch(() => undefined)) await copy(join(home, path), join(project, path))
  }
  await copy(join(home, 'node_modules/.bin'), join(project, 'node_modules/.bin'))
  const rig = join(root, 'opt/rig')
  await rm(rig, { recursive: true, force: true })
  await build({
    entryPoints: ['agents', 'client'].map((role) => join(import.meta.dirname, `${role}.process.ts`)),
    outdir: rig,
    bundle: true,
    format: 'esm',
    platform: 'node',
    outExtension: { '.js': '.mjs' },
    // what is bundled may be CommonJS
    banner: { js: "import { createRequire } from 'node:module'\nconst require = createRequire(import.meta.url)" },
  })
  await cp(join(import.meta.dirname, 'init.sh'), join(rig, 'init.sh'))
  await rm(join(root, 'usr/lib/modules'), { recursive: true, force: true })
  await copy(MODULES, join(root, 'usr/lib/modules'))
  await execa('depmod', ['-b', root, (await readdir(MODULES))[0]!])
  await warm(root)
  const disk = join(dir, 'host.img')
  say('mkfs.ext4: Debian and the project as one disk')
  await execa('mkfs.ext4', ['-q', '-F', '-d', root, disk, '2200M'])
  return disk
}

/** Compiled code is kept in the image, so that each start of an agent is shorter. Its mounts end with their namespace. */
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
