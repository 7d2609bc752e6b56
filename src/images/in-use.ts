import { readFile, stat } from 'node:fs/promises'

/**
 * Who has a disk image open for a VM: QEMU takes open-file-description locks on bytes 100 to 299 of every image it uses
 * (qemu docs/system/qemu-block-drivers, "image locking"), and the kernel lists all locks in /proc/locks (proc(5)).
 * Only processes of this host are seen. Returns words for people, or undefined.
 */
export async function imageInUse(path: string): Promise<string | undefined> {
  let inode: string
  try {
    const s = await stat(path, { bigint: true })
    const major = (s.dev >> 8n) & 0xfffn
    const minor = (s.dev & 0xffn) | ((s.dev >> 12n) & 0xfff00n)
    inode = `${hex2(major)}:${hex2(minor)}:${s.ino}`
  } catch {
    return undefined
  }
  const locks = await readFile('/proc/locks', 'utf8').catch(() => '')
  for (const line of locks.split('\n')) {
    const f = line.trim().split(/\s+/)
    if (f[1] !== 'OFDLCK' || f[5] !== inode) continue
    const from = Number(f[6])
    if (from >= 100 && from < 300) return 'a running QEMU has locked it'
  }
  return undefined
}

function hex2(n: bigint): string {
  return n.toString(16).padStart(2, '0')
}
