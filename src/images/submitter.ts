import type { Stats } from 'node:fs'
import { runGroup } from '../process/index.ts'
import { ImageError } from './errors.ts'
import type { OpenedFile } from './walk.ts'

/** Who dropped a job: a job may read only what its submitter may read. */
export interface Submitter {
  uid: number
  gid: number
  /** supplementary groups of the user */
  groups: readonly number[]
}

/** The user's groups as this host knows them. A user without an account has no group but the drop's. */
export async function submitterOf(uid: number, gid: number): Promise<Submitter> {
  if (uid === 0) return { uid, gid, groups: [] }
  const name = (await printed(['id', '-un', '--', String(uid)])).trim()
  const list = name === '' || name === String(uid) ? '' : await printed(['id', '-G', '--', name])
  const groups = list.split(/\s+/).filter(Boolean).map(Number).filter(Number.isSafeInteger)
  return { uid, gid, groups: groups.length === 0 ? [gid] : groups }
}

async function printed(argv: string[]): Promise<string> {
  let text = ''
  const r = await runGroup(argv, {
    onStdout: (c) => {
      text += c.toString('utf8')
    },
  }).catch(() => undefined)
  return r?.exit_code === 0 ? text : ''
}

/**
 * Refuses a file that the submitter could not read himself. An agent that runs as root lets the kernel decide, as the submitter
 * (so access control lists count); any other agent goes by owner, groups and mode.
 * @throws {ImageError} submitter-permission
 */
export async function checkSubmitter(file: OpenedFile, who: Submitter): Promise<void> {
  const denied = await deniedTo(file, who)
  if (denied === undefined) return
  throw new ImageError(
    `The submitter of this job (uid ${who.uid}) may not ${denied === 'file' ? 'read' : 'search a folder above'} ${JSON.stringify(file.path)}, and a job may read only what its submitter may read.`,
    {
      code: 'submitter-permission',
      hint: 'Give that user read permission on the file and search permission on its folders, or submit the job as a user who has them.',
    },
  )
}

/** What a user could not do himself to get at the file: read it, or search a folder above. undefined: he could. */
export async function deniedTo(file: OpenedFile, who: Submitter): Promise<'file' | 'folder' | undefined> {
  if (who.uid === 0 || who.uid === process.geteuid?.()) return undefined
  return process.geteuid?.() === 0 ? deniedByKernel(file, who) : deniedByMode(file, who)
}

async function deniedByKernel(file: OpenedFile, who: Submitter): Promise<'file' | 'folder' | undefined> {
  const fds = [file.handle.fd, ...file.folders.map((f) => f.fd)]
  // fd 3 is the file, the others are folders. O_PATH descriptors are looked at, not read.
  const script = `[ -r /dev/fd/3 ] || exit 10; n=4; while [ $n -lt ${3 + fds.length} ]; do [ -x /dev/fd/$n ] || exit 11; n=$((n+1)); done; exit 0`
  const groups = [...new Set([who.gid, ...who.groups])].join(',')
  const r = await runGroup(
    [
      'setpriv',
      `--reuid=${who.uid}`,
      `--regid=${who.gid}`,
      `--groups=${groups}`,
      '--inh-caps=-all',
      '--bounding-set=-all',
      '--',
      '/bin/sh',
      '-c',
      script,
    ],
    { extraFds: fds, cwd: '/' },
  )
  if (r.exit_code === 0) return undefined
  if (r.exit_code === 10) return 'file'
  if (r.exit_code === 11) return 'folder'
  throw new ImageError(`The rights of uid ${who.uid} could not be checked with setpriv (exit code ${r.exit_code}).`, {
    code: 'submitter-permission',
    transient: true,
    hint: 'Check that setpriv (util-linux) is installed.',
  })
}

async function deniedByMode(file: OpenedFile, who: Submitter): Promise<'file' | 'folder' | undefined> {
  if (!allows(file.stat, who, 4)) return 'file'
  for (const folder of file.folders) if (!allows(await folder.stat(), who, 1)) return 'folder'
  return undefined
}

/** POSIX file mode: the first class that fits decides. `want` is 4 to read, 1 to search. */
export function allows(s: Pick<Stats, 'uid' | 'gid' | 'mode'>, who: Submitter, want: 4 | 1): boolean {
  if (who.uid === 0) return true
  if (s.uid === who.uid) return ((s.mode >> 6) & want) !== 0
  if (s.gid === who.gid || who.groups.includes(s.gid)) return ((s.mode >> 3) & want) !== 0
  return (s.mode & want) !== 0
}
