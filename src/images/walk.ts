import { constants, type Stats } from 'node:fs'
import { type FileHandle, open, realpath } from 'node:fs/promises'
import { dirname, isAbsolute, join, relative, resolve } from 'node:path'
import { ImageError } from './errors.ts'
import { hiddenHint } from './hidden.ts'

/**
 * Opens untrusted paths by walking down from a trusted folder one component at a time, never through a link, so that
 * whoever can write to a folder on the way can only offer files of his own. Node has no openat(2);
 * `/proc/self/fd/<folder>/<name>` is the same thing on Linux.
 */

/** O_PATH: a place in the tree without the right to read it, so a folder that may only be searched can be passed through. */
const O_PATH = 0o10000000
const FOLDER = O_PATH | constants.O_DIRECTORY | constants.O_NOFOLLOW
const PLACE = O_PATH | constants.O_NOFOLLOW

/** A regular file, open for reading, and the folders through which it was reached (the import root first). */
export interface OpenedFile {
  path: string
  handle: FileHandle
  stat: Stats
  /** O_PATH handles; the last is the file's own folder */
  folders: readonly FileHandle[]
  /** true: the folders belong to another OpenedFile, which closes them */
  borrowed: boolean
  /** a file of our own: the compressed bytes that it was unpacked from */
  from?: { file: OpenedFile; offset: number; size: number }
  close(): Promise<void>
}

/**
 * @param roots trusted folders (configuration `import_roots`); links above and in them are followed
 * @throws {ImageError} outside-import-roots, not-found, link-refused, not-a-file, permission
 */
export async function openBeneath(path: string, roots: readonly string[]): Promise<OpenedFile> {
  if (!isAbsolute(path)) throw new ImageError(`The path ${q(path)} is not absolute.`, { code: 'relative-path' })
  if (path.includes('\0')) throw new ImageError('The path holds a NUL byte.', { code: 'bad-path' })
  const full = resolve(path)
  const root = roots.map((r) => resolve(r)).find((r) => r === '/' || full.startsWith(`${r}/`))
  if (root === undefined) {
    throw new ImageError(
      `The file ${q(full)} lies outside the folders from which disks may be read (${roots.map(q).join(', ')}).`,
      {
        code: 'outside-import-roots',
        hint: 'Move it there, or add its folder to intake.import_roots in the configuration.',
      },
    )
  }
  const names = relative(root, full).split('/')
  const last = names.pop()!
  const folders: FileHandle[] = []
  let at = root
  try {
    folders.push(await open(await realpath(root), O_PATH | constants.O_DIRECTORY))
    for (const name of names) {
      at = join(at, name)
      folders.push(await open(`/proc/self/fd/${folders.at(-1)!.fd}/${name}`, FOLDER))
    }
    at = full
    const { handle, stat } = await openIn(folders.at(-1)!, last, full)
    return { path: full, handle, stat, folders, borrowed: false, close: () => closeAll([handle, ...folders]) }
  } catch (e) {
    await closeAll(folders)
    throw await explain(e, full, at)
  }
}

/** Opens a plain name in the folder of a file that is open already (an extent, a disk of an OVF). */
export async function openSibling(of: OpenedFile, name: string): Promise<OpenedFile> {
  const path = join(dirname(of.path), name)
  if (!isPlainName(name)) {
    throw new ImageError(
      `${q(of.path)} refers to ${q(name)}, which is no plain file name. Only files in the same folder may be referred to.`,
      {
        code: 'reference-refused',
        hint: 'Put all files of the disk into one folder and refer to them by name alone.',
      },
    )
  }
  try {
    const { handle, stat } = await openIn(of.folders.at(-1)!, name, path)
    return { path, handle, stat, folders: of.folders, borrowed: true, close: () => closeAll([handle]) }
  } catch (e) {
    throw await explain(e, path, path)
  }
}

/** A name that means a file in the same folder and nothing else, to us and to qemu. */
export function isPlainName(name: string): boolean {
  return name !== '' && name !== '.' && name !== '..' && name.length <= 255 && !/[/\\\0]/.test(name)
}

async function openIn(folder: FileHandle, name: string, path: string): Promise<{ handle: FileHandle; stat: Stats }> {
  // first as a mere place: opening a FIFO would wait and opening a device may act on it
  const place = await open(`/proc/self/fd/${folder.fd}/${name}`, PLACE)
  try {
    const what = await place.stat()
    if (what.isSymbolicLink()) throw linkRefused(path, path)
    if (!what.isFile()) {
      throw new ImageError(`${q(path)} is ${kindOf(what)}, not a regular file.`, {
        code: 'not-a-file',
        hint: 'Copy its content into a file first.',
      })
    }
    const handle = await open(`/proc/self/fd/${place.fd}`, constants.O_RDONLY)
    return { handle, stat: await handle.stat() }
  } finally {
    await place.close()
  }
}

function kindOf(s: Stats): string {
  if (s.isDirectory()) return 'a folder'
  if (s.isFIFO()) return 'a FIFO'
  if (s.isSocket()) return 'a socket'
  if (s.isBlockDevice() || s.isCharacterDevice()) return 'a device'
  return 'something else'
}

function linkRefused(path: string, at: string): ImageError {
  return new ImageError(
    `${q(at)}${at === path ? '' : ` on the way to ${q(path)}`} is a symbolic link, and links are not followed.`,
    {
      code: 'link-refused',
      hint: 'Give the real path of the file.',
    },
  )
}

async function explain(e: unknown, path: string, at: string): Promise<unknown> {
  if (e instanceof ImageError) return e
  const code = (e as NodeJS.ErrnoException).code
  const via = at === path ? '' : ` (at ${q(at)})`
  if (code === 'ENOENT') {
    return new ImageError(`The file ${q(path)} does not exist${via}.`, {
      code: 'not-found',
      hint:
        (await hiddenHint(path)) ??
        'Check the path; it must be visible on the host where the agent runs (a private /tmp or another host hides it).',
      cause: e,
    })
  }
  // O_DIRECTORY | O_NOFOLLOW on a link gives ENOTDIR
  if (code === 'ELOOP' || code === 'ENOTDIR') {
    return at === path
      ? linkRefused(path, at)
      : new ImageError(
          `${q(at)} on the way to ${q(path)} is a symbolic link or no folder, and links are not followed.`,
          { code: 'link-refused', hint: 'Give the real path of the file.', cause: e },
        )
  }
  if (code === 'EACCES' || code === 'EPERM') {
    return new ImageError(`The agent may not read ${q(path)}${via}.`, {
      code: 'permission',
      hint:
        (await hiddenHint(path)) ??
        "Give the agent's user read permission on the file and search permission on its folders.",
      cause: e,
    })
  }
  return new ImageError(`${q(path)} could not be opened${via}: ${(e as Error).message}.`, {
    code: 'io',
    transient: true,
    cause: e,
  })
}

async function closeAll(handles: readonly FileHandle[]): Promise<void> {
  await Promise.allSettled(handles.map((h) => h.close()))
}

function q(s: string): string {
  return JSON.stringify(s)
}
