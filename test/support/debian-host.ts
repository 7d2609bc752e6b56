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

/** @returns a folder that holds the host's root */
export function debianHost(say: (line: string) => void): Promise<string> {
  return debian('debian-12-host', PACKAGES, say)
}

/**
 * A Debian 12 with these packages, as a folder. debootstrap takes minutes, so it is kept in `$VMSPOOL_GUEST_CACHE` (or the folder of temporary
 * files) under that name, and found there the next time.
 */
export async function debian(name: string, packages: readonly string[], say: (line: string) => void): Promise<string> {
  const cache = process.env.VMSPOOL_GUEST_CACHE ?? tmpdir()
  await mkdir(cache, { recursive: true })
  const root = join(cache, name)
  if (await stat(root).catch(() => undefined)) return root
  const work = await mkdtemp(join(cache, `${name}-`))
  try {
    say(`debootstrap: ${name} (some minutes)`)
    const made = join(work, 'root')
    await execa('debootstrap', ['--variant=minbase', `--include=${packages.join(',')}`, 'bookworm', made])
    for (const d of ['var/cache/apt/archives', 'var/lib/apt/lists'])
      await rm(join(made, d), { recursive: true, force: true })
    await rename(made, root)
  } finally {
    await rm(work, { recursive: true, force: true })
  }
  return root
}
