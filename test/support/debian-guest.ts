// A real Debian 12 with kernel, initramfs, GRUB and a login prompt on its serial port, as a raw disk. It takes minutes to make
// and needs root and Debian's mirror, so it is for `npm run soak` alone, and made once per run.
import {
  copyFile,
  cp,
  glob,
  mkdir,
  mkdtemp,
  open,
  readdir,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { execa } from 'execa'

export interface DebianGuest {
  /** the sparse raw disk; shared by whoever asks, so copy it before anything writes to it */
  raw: string
  size_bytes: number
  hostname: string
  root_password: string
}

const MIB = 1024 * 1024
const SIZE = 2048 * MIB
/** where the one partition begins; GRUB's core image lies in the gap before it */
const FIRST = MIB
const HOSTNAME = 'vmspool-guest'
const PASSWORD = 'vmspool'
const PACKAGES = [
  'linux-image-amd64',
  'initramfs-tools',
  'systemd-sysv',
  'dbus',
  'grub2-common',
  'grub-pc-bin',
  'ifupdown',
  'iproute2',
  'openssh-server',
]

/**
 * The guest's disk, from the folder `$VMSPOOL_GUEST_CACHE` (or the folder of temporary files) when it is there already.
 * The partition table is an MBR with one ext4 (label `root`); the boot loader is GRUB for BIOS, with an ordinary `/boot/grub/grub.cfg`.
 */
export async function debianGuest(say: (line: string) => void = () => {}): Promise<DebianGuest> {
  const cache = process.env.VMSPOOL_GUEST_CACHE ?? tmpdir()
  await mkdir(cache, { recursive: true })
  const raw = join(cache, 'debian-12-guest.raw')
  const there = await stat(raw).catch(() => undefined)
  if (there === undefined) {
    const work = await mkdtemp(join(cache, 'guest-'))
    try {
      const root = join(work, 'root')
      say('debootstrap: Debian 12 with a kernel (some minutes)')
      await execa('debootstrap', ['--variant=minbase', `--include=${PACKAGES.join(',')}`, 'bookworm', root])
      await configure(root)
      await writeDisk(root, join(work, 'disk'), join(work, 'core.img'))
      await rename(join(work, 'disk'), raw)
    } finally {
      await rm(work, { recursive: true, force: true })
    }
  }
  return { raw, size_bytes: SIZE, hostname: HOSTNAME, root_password: PASSWORD }
}

async function configure(root: string): Promise<void> {
  await rm(join(root, 'var/cache/apt/archives'), { recursive: true, force: true })
  await mkdir(join(root, 'var/cache/apt/archives/partial'), { recursive: true })
  await writeFile(join(root, 'etc/hostname'), `${HOSTNAME}\n`)
  await writeFile(join(root, 'etc/hosts'), `127.0.0.1 localhost\n127.0.1.1 ${HOSTNAME}\n`)
  await writeFile(join(root, 'etc/fstab'), 'LABEL=root / ext4 errors=remount-ro 0 1\n')
  await writeFile(join(root, 'etc/network/interfaces'), 'auto lo\niface lo inet loopback\n')
  await writeFile(
    join(root, 'etc/default/grub'),
    'GRUB_DEFAULT=0\nGRUB_TIMEOUT=1\nGRUB_DISTRIBUTOR=Debian\nGRUB_CMDLINE_LINUX="console=ttyS0"\nGRUB_TERMINAL=serial\n',
  )
  await execa('chroot', [root, 'chpasswd'], { input: `root:${PASSWORD}\n` })
}

/** MBR, GRUB's core image in the gap, and the folder as ext4 behind it: no loop device and no mount is needed. */
async function writeDisk(root: string, disk: string, core: string): Promise<void> {
  const [kernel] = (await readdir(join(root, 'boot'))).filter((f) => f.startsWith('vmlinuz-'))
  if (kernel === undefined) throw new Error('debootstrap installed no kernel.')
  const version = kernel.slice('vmlinuz-'.length)
  const grub = join(root, 'boot/grub')
  await mkdir(join(grub, 'i386-pc'), { recursive: true })
  for await (const file of glob(join(root, 'usr/lib/grub/i386-pc/*.{mod,lst,img}')))
    await cp(file, join(grub, 'i386-pc', basename(file)))
  for (const [link, target] of [
    ['vmlinuz', `boot/${kernel}`],
    ['initrd.img', `boot/initrd.img-${version}`],
  ] as const) {
    await rm(join(root, link), { force: true })
    await symlink(target, join(root, link))
  }
  await writeFile(join(grub, 'grub.cfg'), grubCfg(version))
  const modules = 'biosdisk part_msdos ext2 normal linux search search_label configfile serial terminal echo gzio'
  await execa('chroot', [
    root,
    'grub-mkimage',
    ...['-O', 'i386-pc', '-o', '/core.img', '-p', '(hd0,msdos1)/boot/grub'],
    ...modules.split(' '),
  ])
  await rename(join(root, 'core.img'), core)
  await copyFile(join(root, 'usr/lib/grub/i386-pc/boot.img'), `${core}.boot`)

  await using file = await open(disk, 'w+')
  await file.truncate(SIZE)
  await execa('sfdisk', ['-q', disk], {
    input: `label: dos\nlabel-id: 0x766d7370\nstart=${FIRST / 512}, type=83, bootable\n`,
  })
  const ext4 = ['-q', '-F', '-L', 'root', '-E', `offset=${FIRST}`, '-d', root, disk, `${(SIZE - FIRST) / 1024}k`]
  await execa('mkfs.ext4', ext4)
  // boot.img loads sector 1; grub-mkimage's list of blocks begins at sector 2, which is where the rest then lies
  await using boot = await open(`${core}.boot`)
  const { buffer } = await boot.read(Buffer.alloc(440), 0, 440, 0)
  await file.write(buffer, 0, 440, 0)
  await using image = await open(core)
  const bytes = await image.readFile()
  if (bytes.length > FIRST - 512) throw new Error(`GRUB's core image has ${bytes.length} bytes and does not fit.`)
  await file.write(bytes, 0, bytes.length, 512)
  await file.sync()
}

/** As update-grub would write it, as far as it matters. */
function grubCfg(version: string): string {
  return `set default="0"
set timeout=1
serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial

menuentry 'Debian GNU/Linux' --class debian --class gnu-linux --class gnu --class os {
	insmod gzio
	insmod part_msdos
	insmod ext2
	search --no-floppy --label --set=root root
	echo	'Loading Linux ${version} ...'
	linux	/boot/vmlinuz-${version} root=LABEL=root ro console=ttyS0
	echo	'Loading initial ramdisk ...'
	initrd	/boot/initrd.img-${version}
}
`
}
