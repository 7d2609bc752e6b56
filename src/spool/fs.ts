/**
 * The file system as the spool sees it: few operations, so that the same protocol code runs on a disk and in the
 * simulation (test/sim), which crashes, stalls, lies and forgets between any two of them.
 */
import { constants } from 'node:fs'
import * as fsp from 'node:fs/promises'
import { unlessStale } from '../process/errno.ts'
import { groupSync } from './sync.ts'

export type EntryKind = 'file' | 'dir' | 'link' | 'other'

export interface FileStat {
  kind: EntryKind
  size: number
  ino: number
  mtime_ms: number
  uid: number
  gid: number
  mode: number
}

export interface SpoolFs {
  /** Names in a folder. On a network file system the answer may be some seconds old. */
  readdir(dir: string): Promise<string[]>
  /** Names in a folder, not older than the caller's last change in it. */
  readdirFresh(dir: string): Promise<string[]>
  /** Names with their kinds, for folders in which strangers write. */
  readdirKinds(dir: string): Promise<{ name: string; kind: EntryKind }[]>
  /** At most `max` bytes of a regular file; never follows a link, never blocks on a FIFO (code ENOTREG). */
  readFile(path: string, max?: number): Promise<{ bytes: Buffer; stat: FileStat }>
  lstat(path: string): Promise<FileStat>
  /** Creates or replaces a file. With `sync` its content (not its name) survives power loss. */
  writeFile(
    path: string,
    data: string | Uint8Array,
    o: { mode: number; sync: boolean; exclusive?: boolean },
  ): Promise<void>
  appendFile(path: string, data: string, mode: number): Promise<void>
  syncFile(path: string): Promise<void>
  syncDir(dir: string): Promise<void>
  rename(from: string, to: string): Promise<void>
  mkdir(dir: string, mode: number): Promise<void>
  unlink(path: string): Promise<void>
  rmdir(dir: string): Promise<void>
}

export function notRegular(path: string): Error {
  return Object.assign(new Error(`${path} is not a regular file.`), { code: 'ENOTREG' })
}

function kindOf(e: { isFile(): boolean; isDirectory(): boolean; isSymbolicLink(): boolean }): EntryKind {
  return e.isFile() ? 'file' : e.isDirectory() ? 'dir' : e.isSymbolicLink() ? 'link' : 'other'
}

type RawStat = Awaited<ReturnType<typeof fsp.lstat>>

function statOf(s: RawStat): FileStat {
  return {
    kind: kindOf(s as never),
    size: Number(s.size),
    ino: Number(s.ino),
    mtime_ms: Number(s.mtimeMs),
    uid: Number(s.uid),
    gid: Number(s.gid),
    mode: Number(s.mode) & 0o7777,
  }
}

const READ = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK

/** The real file system. `remote`: a network mount, where a listing is made fresh by a change of our own (NFS revalidates then). */
export function nodeFs(remote: () => boolean): SpoolFs {
  let probe = 0
  const readdir = (dir: string) => unlessStale(() => fsp.readdir(dir))
  const changedAndListed = groupSync((dir) =>
    unlessStale(async () => {
      const path = `${dir}/.fresh-${process.pid}-${Date.now()}-${probe++}`
      await fsp.mkdir(path)
      await fsp.rmdir(path)
      return fsp.readdir(dir)
    }),
  )
  return {
    readdir,
    // Copied: whoever shares a listing may sort or change it.
    readdirFresh: async (dir) => (remote() ? [...(await changedAndListed(dir))] : readdir(dir)),
    async readdirKinds(dir) {
      const entries = await unlessStale(() => fsp.readdir(dir, { withFileTypes: true }))
      return entries.map((e) => ({ name: e.name, kind: kindOf(e) }))
    },
    readFile: (path, max = 64 << 20) => unlessStale(() => readRegular(path, max)),
    async lstat(path) {
      return statOf(await fsp.lstat(path))
    },
    async writeFile(path, data, o) {
      await using file = await fsp.open(path, o.exclusive ? 'wx' : 'w', o.mode)
      await file.writeFile(data)
      if (o.sync) await file.datasync()
    },
    appendFile: (path, data, mode) => fsp.appendFile(path, data, { mode }),
    async syncFile(path) {
      await using file = await open(path, READ)
      await file.sync()
    },
    async syncDir(dir) {
      await using file = await open(dir, constants.O_RDONLY | constants.O_DIRECTORY)
      await file.sync()
    },
    rename: (from, to) => fsp.rename(from, to),
    async mkdir(dir, mode) {
      await fsp.mkdir(dir, mode)
    },
    unlink: (path) => fsp.unlink(path),
    rmdir: (dir) => fsp.rmdir(dir),
  }
}

async function readRegular(path: string, max: number): Promise<{ bytes: Buffer; stat: FileStat }> {
  await using file = await open(path, READ)
  const stat = statOf(await file.stat())
  if (stat.kind !== 'file') throw notRegular(path)
  const bytes = Buffer.allocUnsafe(Math.min(max, Math.max(stat.size, 4096)) + 1)
  let length = 0
  while (length < bytes.length) {
    const { bytesRead } = await file.read(bytes, length, bytes.length - length, length)
    if (bytesRead === 0) break
    length += bytesRead
  }
  return { bytes: bytes.subarray(0, Math.min(length, max)), stat: { ...stat, size: Math.max(stat.size, length) } }
}

async function open(path: string, flags: number): Promise<fsp.FileHandle> {
  try {
    return await fsp.open(path, flags)
  } catch (error) {
    // ELOOP: a link; ENXIO: a socket, or a device without a driver
    const code = (error as NodeJS.ErrnoException).code
    if (code === 'ELOOP' || code === 'ENXIO') throw notRegular(path)
    throw error
  }
}
