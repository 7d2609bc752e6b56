// Makes a fresh clone on a bare Debian (Node 20, npm and root, nothing else) able to run the tests and benchmarks.
// Plain JavaScript on purpose: it runs under the host's Node, before the project's own Node 26 is there.
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

export const home = resolve(fileURLToPath(import.meta.url), '../../..')
/** The project's own Node; exists after `prepare()`. */
export const node = join(home, 'node_modules/.bin/node')

/** Debian packages by the program (or file, with its whole path) that shows they are there. */
export const forTests = {
  'qemu-img': 'qemu-utils',
  'qemu-io': 'qemu-utils',
  strace: 'strace',
  pkill: 'procps',
  'mkfs.ext4': 'e2fsprogs',
  virsh: 'libvirt-clients',
  'virt-qemu-run': 'libvirt-daemon-driver-qemu',
  // a whole libvirt of our own: the daemon, what its networks need, and the ways in to it
  libvirtd: 'libvirt-daemon',
  dnsmasq: 'dnsmasq-base',
  '/usr/lib/ipxe/qemu/pxe-virtio.rom': 'ipxe-qemu',
  '/usr/lib/polkit-1/polkitd': 'polkitd',
  'dbus-daemon': 'dbus-daemon',
  'dbus-send': 'dbus-bin',
  dropbear: 'dropbear-bin',
  ssh: 'openssh-client',
  nc: 'netcat-openbsd',
  openssl: 'openssl',
  // seeds of VMs, and who may read their disks
  xorriso: 'xorriso',
  genisoimage: 'genisoimage',
  '/usr/lib/python3/dist-packages/yaml/__init__.py': 'python3-yaml', // cloud-init's reader
  setfacl: 'acl',
  ip: 'iproute2',
  iptables: 'iptables',
  busybox: 'busybox-static', // its udhcpc: a card that asks for an address
  xmllint: 'libxml2-utils',
  'qemu-system-x86_64': 'qemu-system-x86',
  '/usr/share/OVMF/OVMF_CODE_4M.fd': 'ovmf',
  mcopy: 'mtools',
  'mkfs.fat': 'dosfstools',
  // the boot loader of the tiny guest; other processors have none
  ...(process.arch === 'x64' ? { syslinux: 'syslinux', '/usr/lib/syslinux/mbr/mbr.bin': 'syslinux-common' } : {}),
  'mkfs.btrfs': 'btrfs-progs',
  // a writer of VMDKs and a reader of qcow2 that are not qemu's
  '/usr/lib/python3/dist-packages/VMDKstream.py': 'python3-vmdkstream',
  '7zz': '7zip',
  // what judges the units, and the container in which they run
  'systemd-analyze': 'systemd',
  'systemd-nspawn': 'systemd-container',
  // the terminal in which the terminal UI is driven
  tmux: 'tmux',
}
/** What only `npm run soak` needs, because it takes long to install or to run. */
export const forSoak = {
  ...forTests,
  debootstrap: 'debootstrap',
  sfdisk: 'fdisk',
  'mkfs.xfs': 'xfsprogs',
  'virt-v2v-in-place': 'virt-v2v',
  nbdkit: 'nbdkit',
  'virt-customize': 'guestfs-tools',
  guestfish: 'guestfish',
  supermin: 'supermin',
  depmod: 'kmod',
  // Linux kernels as processes: the hosts of the NFS soak
  ...(process.arch === 'x64' ? { 'linux.uml': 'user-mode-linux' } : {}),
}
export const forBench = { ...forTests, tsp: 'task-spooler', nq: 'nq', sqlite3: 'sqlite3', 'mkfs.xfs': 'xfsprogs' }

function readJson(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8'))
  } catch {
    return undefined
  }
}

/** node_modules is current when npm's own record of what it installed has every locked package in the locked version. */
function modulesAreCurrent() {
  const wanted = readJson(join(home, 'package-lock.json'))?.packages
  const installed = readJson(join(home, 'node_modules/.package-lock.json'))?.packages
  if (wanted === undefined || installed === undefined || !existsSync(node)) return false
  return Object.entries(wanted).every(
    ([path, p]) => path === '' || p.optional || p.devOptional || installed[path]?.version === p.version,
  )
}

function run(argv, why) {
  const r = spawnSync(argv[0], argv.slice(1), {
    cwd: home,
    stdio: ['ignore', 'pipe', 'pipe'],
    encoding: 'utf8',
    maxBuffer: 1 << 26,
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
  })
  if (r.status === 0) return
  process.stderr.write(`${r.stdout ?? ''}${r.stderr ?? ''}`)
  const how = r.error ? r.error.message : r.signal ? `was ended by ${r.signal}` : `ended with exit code ${r.status}`
  throw new Error(`${why} failed: \`${argv.join(' ')}\` ${how}.`)
}

function found(program) {
  if (program.startsWith('/')) return existsSync(program)
  const dirs = `${process.env.PATH ?? ''}:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin`.split(':')
  return dirs.some((d) => d !== '' && existsSync(join(d, program)))
}

/**
 * Installs what is missing: npm packages as locked, Debian packages of `programs`.
 * Throws an Error with a full sentence when something cannot be installed.
 */
export function prepare(programs = forTests, say = (line) => process.stdout.write(`${line}\n`)) {
  if (!modulesAreCurrent()) {
    say('node_modules is missing or older than package-lock.json: npm ci')
    run(['npm', 'ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'], 'Installing the npm packages')
  }
  const missing = [
    ...new Set(
      Object.keys(programs)
        .filter((p) => !found(p))
        .map((p) => programs[p]),
    ),
  ]
  if (missing.length === 0) return
  const apt = process.getuid?.() === 0 ? ['apt-get'] : found('sudo') ? ['sudo', '-n', 'apt-get'] : undefined
  if (apt === undefined) {
    throw new Error(
      `The Debian packages ${missing.join(', ')} are missing and only root can install them. Run \`apt-get install ${missing.join(' ')}\` as root, then try again.`,
    )
  }
  say(`Debian packages are missing: apt-get install ${missing.join(' ')}`)
  run([...apt, '-qq', '-o', 'Acquire::Retries=3', 'update'], 'Reading the Debian package lists')
  run([...apt, '-qq', '-y', '--no-install-recommends', 'install', ...missing], 'Installing Debian packages')
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    prepare({ bench: forBench, soak: forSoak }[process.argv[2] ?? ''] ?? forTests)
  } catch (error) {
    process.stderr.write(`${error.message}\n`)
    process.exit(1)
  }
}
