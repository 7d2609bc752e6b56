// A Debian 12 host of our own for `npm run soak`: systemd and what our .deb depends on, as a folder that is made into a disk. The kernel is
// Linux itself as a program (user-mode-linux), so nothing is emulated. Needs root and Debian's mirror.
import { mkdir, mkdtemp, rename, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'

const PACKAGES = [
  ...['systemd-sysv', 'libpam-systemd', 'dbus', 'kmod', 'iproute2', 'procps'],
  ...['perl-base', 'util-linux', 'qemu-utils', 'libstdc++6', 'libatomic1', 'passwd'],
]

/** @returns a folder that holds the host's root; from `$VMSPOOL_GUEST_CACHE` (or the folder of temporary files) when it is there already */
export async function debianHost(say: (line: string) => void): Promise<string> {
  const cache = process.env.VMSPOOL_GUEST_CACHE ?? tmpdir()
  await mkdir(cache, { recursive: true })
  const root = join(cache, 'debian-12-host')
  if (await stat(root).catch(() => undefined)) return root
  const work = await mkdtemp(join(cache, 'host-'))
  try {
    say('debootstrap: Debian 12 as a host (some minutes)')
    const made = join(work, 'root')
    await execa('debootstrap', ['--variant=minbase', `--include=${PACKAGES.join(',')}`, 'bookworm', made])
    for (const d of ['var/cache/apt/archives', 'var/lib/apt/lists'])
      await rm(join(made, d), { recursive: true, force: true })
    await rename(made, root)
  } finally {
    await rm(work, { recursive: true, force: true })
  }
  return root
}
