// The smallest real guest: SYSLINUX, Debian's cloud kernel and a busybox on one FAT partition. Made in a second, boots in some ten.
import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { execa } from 'execa'

const MIB = 2 ** 20
const SIZE = 64 * MIB
/** where the partition begins, in bytes */
const FIRST = MIB
const MBR = '/usr/lib/syslinux/mbr/mbr.bin'

/** In the order in which they need each other; what a kernel has built in is not there and not missed. */
const MODULES = [
  ...['virtio_ring', 'virtio', 'virtio_pci_legacy_dev', 'virtio_pci_modern_dev', 'virtio_pci', 'virtio_blk'],
  ...['failover', 'net_failover', 'virtio_net', 'af_packet', 'evdev', 'button'],
  ...['fat', 'vfat', 'nls_cp437', 'nls_ascii', 'nls_iso8859-1', 'nls_utf8'],
]

/**
 * It prints what `proof.txt` on its own disk holds, what earlier boots have written there, and what it writes itself: a line with a
 * number that only this boot knows. Then it powers off, or, with `serve` in its command line, it gets an address by DHCP, answers over
 * HTTP with what it knows of itself, and powers off when somebody presses the power button.
 */
const INIT = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for m in ${MODULES.join(' ')}; do [ -f /modules/$m.ko ] && insmod /modules/$m.ko; done
while ! [ -b /dev/vda1 ]; do sleep 0.1; done
mount -t vfat /dev/vda1 /mnt || poweroff -f
proof="$(cat /mnt/proof.txt)"
echo "GUEST-READ $proof"
[ -f /mnt/boots.txt ] && echo "GUEST-FOUND $(cat /mnt/boots.txt)"
read id < /proc/sys/kernel/random/uuid
echo $id >> /mnt/boots.txt
boots=$(wc -l < /mnt/boots.txt)
umount /mnt && echo "GUEST-WROTE $id"
grep -qw serve /proc/cmdline || poweroff -f

for e in /sys/class/input/event*; do
  grep -q "Power Button" $e/device/name && { head -c 1 /dev/input/\${e##*/} > /dev/null; echo GUEST-BUTTON; poweroff -f; } &
done
ip link set lo up
for c in /sys/class/net/eth*; do
  ip link set \${c##*/} up
  udhcpc -q -n -i \${c##*/} -s /bin/address -x hostname:tiny -t 20 -T 2
done
address="$(ip -4 -o addr show scope global | sed 's/.* inet \\([^/]*\\).*/\\1/')"
cat > /www/index.html << END
proof $proof
boot $id
boots $boots
disks $(cd /sys/block && for d in vd*; do echo -n "$d=$(cat $d/size) "; done)
END
httpd -h /www -p 80
echo "GUEST-READY" $address
while :; do sleep 3600; done
`

/** What udhcpc calls. */
const ADDRESS = `#!/bin/busybox sh
[ "$1" = bound ] || exit 0
ip addr flush dev $interface
ip addr add $ip/\${mask:-24} dev $interface
[ -n "$router" ] && ip route add default via \${router%% *}
exit 0
`

const syslinux = (serve: boolean) => `SERIAL 0 115200
DEFAULT guest
PROMPT 0
LABEL guest
  KERNEL vmlinuz
  INITRD initrd.gz
  APPEND console=ttyS0 quiet panic=-1${serve ? ' serve' : ''}
`

/** What the guest prints of its own disk, for `boot`'s output. */
export function guestSaid(serial: string): {
  read: string | undefined
  found: string | undefined
  wrote: string | undefined
} {
  const line = (word: string) => new RegExp(`GUEST-${word} (.*?)\\r?\\n`).exec(serial)?.[1]
  return { read: line('READ'), found: line('FOUND'), wrote: line('WROTE') }
}

/** What the guest answers over HTTP. */
export function guestAnswered(page: string): { proof?: string; boot?: string; boots: number; disks: string[] } {
  const said = Object.fromEntries(page.split('\n').map((l) => [l.split(' ', 1)[0], l.slice(l.indexOf(' ') + 1)]))
  const { proof, boot, boots, disks } = said
  return {
    ...(proof ? { proof } : {}),
    ...(boot ? { boot } : {}),
    boots: Number(boots),
    disks: (disks ?? '').trim().split(/ +/),
  }
}

/**
 * Writes the guest's raw disk to `path`; `proof` is the line that it reads from its disk. Needs no root, loop device or mount.
 * @param o `serve`: it stays up with an address and a web page, until its power button is pressed
 */
export async function makeTinyGuest(path: string, proof: string, o: { serve?: boolean } = {}): Promise<void> {
  const { kernel, initrd } = await parts()
  await using disk = await open(path, 'w+')
  await disk.truncate(SIZE)
  await execa('mkfs.fat', [
    '-F',
    '16',
    '-n',
    'TINY',
    '--offset',
    String(FIRST / 512),
    path,
    String((SIZE - FIRST) / 1024),
  ])
  const work = await mkdtemp(`${path}.work-`)
  try {
    await writeFile(join(work, 'proof.txt'), `${proof}\n`)
    await writeFile(join(work, 'syslinux.cfg'), syslinux(o.serve === true))
    const files = [kernel, initrd, join(work, 'proof.txt'), join(work, 'syslinux.cfg')]
    const names = ['vmlinuz', 'initrd.gz', 'proof.txt', 'syslinux.cfg']
    for (const [i, from] of files.entries()) await execa('mcopy', ['-i', `${path}@@${FIRST}`, from, `::${names[i]}`])
  } finally {
    await rm(work, { recursive: true, force: true })
  }
  await execa('syslinux', ['--install', '--offset', String(FIRST), path])
  const mbr = await readFile(MBR)
  await disk.write(mbr, 0, Math.min(440, mbr.length), 0)
  await disk.write(partition(), 0, 66, 446)
}

/** One active partition of type 6 (FAT16), and the mark of a boot sector. */
function partition(): Buffer {
  const b = Buffer.alloc(66)
  b.set([0x80, 0xfe, 0xff, 0xff, 0x06, 0xfe, 0xff, 0xff])
  b.writeUInt32LE(FIRST / 512, 8)
  b.writeUInt32LE((SIZE - FIRST) / 512, 12)
  b.writeUInt16LE(0xaa55, 64)
  return b
}

/** Kernel and initramfs from Debian's packages, kept between runs in the user's cache. */
async function parts(): Promise<{ kernel: string; initrd: string }> {
  const cache =
    process.env.VMSPOOL_GUEST_CACHE ?? join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'vmspool-test')
  const made = createHash('sha256').update(INIT).update(ADDRESS).digest('hex').slice(0, 12)
  const dir = join(cache, `tiny-guest-${made}`)
  const kernel = join(dir, 'vmlinuz')
  const initrd = join(dir, 'initrd.gz')
  if (await stat(initrd).catch(() => undefined)) return { kernel, initrd }
  await mkdir(cache, { recursive: true })
  const work = await mkdtemp(join(cache, 'making-'))
  try {
    const root = join(work, 'root')
    for (const name of [await kernelPackage(), 'busybox-static']) {
      await aptDownload(name, work)
      const deb = (await readdir(work)).find((f) => f.startsWith(`${name}_`))!
      await execa('dpkg-deb', ['-x', join(work, deb), root])
      await rm(join(work, deb))
    }
    const out = join(work, 'out')
    await mkdir(out)
    const image = (await readdir(join(root, 'boot'))).find((f) => f.startsWith('vmlinuz-'))!
    await rename(join(root, 'boot', image), join(out, 'vmlinuz'))
    await writeFile(join(out, 'initrd.gz'), gzipSync(await initramfs(root), { level: 6 }))
    // another run may have made it meanwhile
    await rename(out, dir).catch(async (e: unknown) => {
      if (!(await stat(initrd).catch(() => undefined))) throw e
    })
  } finally {
    await rm(work, { recursive: true, force: true })
  }
  return { kernel, initrd }
}

/** `linux-image-cloud-amd64` only depends on the kernel of the day. */
async function kernelPackage(): Promise<string> {
  const depends = async () =>
    (await execa('apt-cache', ['depends', 'linux-image-cloud-amd64'], { reject: false })).stdout
  const find = (text: string) => /Depends: (linux-image-\S+)/.exec(text)?.[1]
  let name = find(await depends())
  if (name === undefined) {
    await updateLists()
    name = find(await depends())
  }
  if (name === undefined)
    throw new Error('The package lists name no linux-image-cloud-amd64, from which the tiny guest is made.')
  return name
}

async function aptDownload(name: string, cwd: string): Promise<void> {
  const download = () =>
    execa('apt-get', ['-q', '-o', 'APT::Sandbox::User=root', 'download', name], { cwd, reject: false })
  let r = await download()
  if (r.exitCode !== 0) {
    // lists of yesterday name packages that the mirror has replaced
    await updateLists()
    r = await download()
  }
  if (r.exitCode !== 0) throw new Error(`apt-get download ${name} failed: ${r.stderr}`)
}

async function updateLists(): Promise<void> {
  if (process.getuid?.() === 0) await execa('apt-get', ['-qq', '-o', 'Acquire::Retries=3', 'update'])
}

async function initramfs(root: string): Promise<Buffer> {
  const lib = join(root, 'lib/modules')
  const all = await readdir(lib, { recursive: true })
  const entries: [string, number, Buffer][] = [
    ...['bin', 'dev', 'mnt', 'modules', 'proc', 'sys', 'www'].map((d): [string, number, Buffer] => [
      d,
      0o040755,
      Buffer.alloc(0),
    ]),
    ['init', 0o100755, Buffer.from(INIT)],
    ['bin/address', 0o100755, Buffer.from(ADDRESS)],
    ['bin/busybox', 0o100755, await readFile(join(root, 'bin/busybox'))],
  ]
  for (const m of MODULES) {
    const file = all.find((f) => f.endsWith(`/${m}.ko`))
    if (file !== undefined) entries.push([`modules/${m}.ko`, 0o100644, await readFile(join(lib, file))])
  }
  return cpio(entries)
}

/** A "newc" archive, which is what the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst). */
function cpio(entries: readonly [string, number, Buffer][]): Buffer {
  const out: Buffer[] = []
  const put = (name: string, mode: number, data: Buffer, inode: number) => {
    const fields = [inode, mode, 0, 0, 1, 0, data.length, 0, 0, 0, 0, name.length + 1, 0]
    const head = `070701${fields.map((n) => n.toString(16).padStart(8, '0')).join('')}${name}\0`
    const pad = (n: number) => Buffer.alloc((4 - (n % 4)) % 4)
    out.push(Buffer.from(head), pad(head.length), data, pad(data.length))
  }
  for (const [i, [name, mode, data]] of entries.entries()) put(name, mode, data, i + 1)
  put('TRAILER!!!', 0, Buffer.alloc(0), 0)
  return Buffer.concat(out)
}
