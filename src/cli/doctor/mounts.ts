/** What the spool lies on: kind of filesystem, mount options, reflink, space. */
import { constants, copyFile, mkdtemp, open, readFile, realpath, rm, stat, statfs, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { bytes, duration } from '../units.ts'
import { codeOf, type Finding, fail, note, ok, warn } from './types.ts'

export interface Mount {
  point: string
  type: string
  options: string[]
  source: string
}

/** /proc/self/mountinfo (proc(5)): "36 35 98:0 /root /mnt rw,noatime shared:1 - ext4 /dev/sda1 rw,errors=continue". */
export function parseMounts(text: string): Mount[] {
  const mounts: Mount[] = []
  for (const line of text.split('\n')) {
    const [left, right] = line.split(' - ')
    if (left === undefined || right === undefined) continue
    const fields = left.split(' ')
    const [type = '', source = '', superOptions = ''] = right.split(' ')
    const plainText = (s: string): string =>
      s.replace(/\\(\d{3})/g, (_, o: string) => String.fromCharCode(Number.parseInt(o, 8)))
    mounts.push({
      point: plainText(fields[4] ?? ''),
      type,
      source: plainText(source),
      options: [...new Set([...(fields[5] ?? '').split(','), ...superOptions.split(',')])].filter((o) => o !== ''),
    })
  }
  return mounts
}

/** The mount a path lies on: the longest mount point above it, the last one mounted there. */
export function mountOf(mounts: readonly Mount[], path: string): Mount | undefined {
  let best: Mount | undefined
  for (const m of mounts) {
    const under = m.point === '/' || path === m.point || path.startsWith(`${m.point}/`)
    if (under && (best === undefined || m.point.length >= best.point.length)) best = m
  }
  return best
}

/** The folder itself, or the nearest one above it that exists: where it would be made. */
export async function existing(path: string): Promise<string> {
  for (let p = path; ; p = dirname(p)) {
    try {
      return await realpath(p)
    } catch (error) {
      if (p === dirname(p)) throw error
    }
  }
}

export async function checkMount(check: string, path: string): Promise<Finding> {
  const mounts = parseMounts(await readFile('/proc/self/mountinfo', 'utf8'))
  return judgeMount(check, path, mountOf(mounts, await existing(path)))
}

export function judgeMount(check: string, path: string, mount: Mount | undefined): Finding {
  if (mount === undefined) return note(check, `${path}: its mount was not found in /proc/self/mountinfo.`)
  const at = `${path} on ${mount.type} (${mount.source})`
  if (mount.options.includes('ro'))
    return fail(check, `${at} is mounted read-only.`, `Mount it writable: mount -o remount,rw ${mount.point}`)
  if (/^nfs/.test(mount.type)) return judgeNfs(check, at, mount)
  if (mount.type === 'tmpfs' || mount.type === 'ramfs') {
    return warn(
      check,
      `${at} lies in memory: every job and result is gone after a reboot, and disks fill the memory.`,
      'Use a disk for anything but a trial.',
    )
  }
  if (mount.type === 'overlay') {
    return note(
      check,
      `${at} is a container's own layer: it is gone with the container.`,
      'Mount a volume there for anything but a trial.',
    )
  }
  if (/^fuse/.test(mount.type)) {
    return warn(
      check,
      `${at}: whether rename and fsync keep their promises there is up to that program.`,
      'Use a local filesystem or NFS 4.',
    )
  }
  if (mount.options.includes('nobarrier') || mount.options.includes('barrier=0')) {
    return warn(
      check,
      `${at} is mounted without write barriers: a power loss can take jobs back that were accepted.`,
      'Mount it without nobarrier.',
    )
  }
  return ok(check, at)
}

function judgeNfs(check: string, at: string, mount: Mount): Finding {
  const value = (name: string): string | undefined =>
    mount.options.find((o) => o.startsWith(`${name}=`))?.slice(name.length + 1)
  const version = value('vers') ?? value('nfsvers') ?? '?'
  const options = `vers=${version},${mount.options.includes('soft') || mount.options.includes('softerr') ? 'soft' : 'hard'}`
  if (mount.options.includes('soft') || mount.options.includes('softerr')) {
    return fail(
      check,
      `${at}, ${options}: a soft mount gives up after a while and reports an error for a rename that may have happened.`,
      `Mount it hard: remove soft from the options of ${mount.point}.`,
    )
  }
  // vmspool itself takes no locks there; QEMU does, and the agent looks at them before it moves an answer.
  if (mount.options.includes('nolock') || mount.options.some((o) => /^local_lock=(?!none)/.test(o))) {
    return warn(
      check,
      `${at}, ${options}: its locks are known to this host alone, so an image that a VM of another host runs on is not seen to be in use.`,
      `Mount ${mount.point} without nolock and local_lock.`,
    )
  }
  if (version.startsWith('3') || version.startsWith('2')) {
    return warn(
      check,
      `${at}, ${options}: NFS ${version} replays a request whose reply was lost, so a rename can seem to fail that was done. vmspool looks again, but 4.1 or later has sessions that rule it out.`,
      `Mount ${mount.point} with vers=4.2.`,
    )
  }
  const name =
    'Give every client host its own host name: two clients of one name share their NFS identity, and the server grants both the same lock.'
  return note(check, `${at}, ${options}: changes by other hosts are seen by listing, within about a second.`, name)
}

/** Reflink: really clone a file there (FICLONE), with no fall-back to copying. */
export async function checkReflink(path: string): Promise<Finding> {
  const place = await existing(path)
  let folder: string
  try {
    folder = await mkdtemp(join(place, '.vmspool-doctor-'))
  } catch (error) {
    return note('reflink', `It was not tried: ${place} may not be written by this user (${codeOf(error)}).`)
  }
  try {
    await writeFile(join(folder, 'a'), Buffer.alloc(65_536, 1))
    await copyFile(join(folder, 'a'), join(folder, 'b'), constants.COPYFILE_FICLONE_FORCE)
    return ok('reflink', `A file was cloned in ${place}: copies of disks cost nothing there.`)
  } catch (error) {
    return note(
      'reflink',
      `Files in ${place} cannot be cloned (${codeOf(error)}): copies of disks are real copies.`,
      'Put the output on XFS or btrfs to have disks cloned instead of copied.',
    )
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/** A file server's clock against ours: mtimes are shown to people, and retention of results goes by our clock. */
export async function checkServerClock(path: string): Promise<Finding | undefined> {
  const place = await existing(path)
  const probe = join(place, `.vmspool-doctor-${process.pid}-${Date.now()}`)
  try {
    const before = Date.now()
    const file = await open(probe, 'wx')
    const made = (await file.stat()).mtimeMs
    await file.close()
    const skew = made - (before + Date.now()) / 2
    if (Math.abs(skew) < 2000) return undefined
    return warn(
      'server-clock',
      `The file server's clock differs from this host's by ${duration(Math.abs(skew))}.`,
      'Run a time service on both.',
    )
  } catch {
    return undefined
  } finally {
    await rm(probe, { force: true })
  }
}

export async function checkSpace(path: string, reserveBytes: number): Promise<Finding> {
  const place = await existing(path)
  const s = await statfs(place)
  const free = s.bavail * s.bsize
  const detail = `${bytes(free)} of ${bytes(s.blocks * s.bsize)} free in ${place}, ${s.ffree} inodes`
  if (free < reserveBytes)
    return fail(
      'space',
      `${detail}; less than the reserve of ${bytes(reserveBytes)}, so no conversion will start.`,
      'Free some space, or lower space.reserve_bytes.',
    )
  if (s.files > 0 && s.ffree < 10_000)
    return warn('space', `${detail}; few inodes are left.`, 'Remove old results or make a filesystem with more inodes.')
  return ok('space', detail)
}

export async function device(path: string): Promise<number> {
  return (await stat(await existing(path))).dev
}
