/** One write to the end of a log that others may rotate at the same moment. */
import { constants } from 'node:fs'
import { type FileHandle, link, mkdir, open, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { isGone, livePath, type LogFiles } from './log-files.ts'
import { guardName } from './log-guard.ts'

interface Opened {
  file: FileHandle
  close(): Promise<void>
}

const flags = constants.O_RDWR | constants.O_APPEND
/** What link(2) says on a file system without second names (vfat, some of FUSE), or of a file of another user. */
const noLinks = ['EPERM', 'EACCES', 'ENOTSUP', 'EOPNOTSUPP', 'EMLINK', 'ENOSYS']

/**
 * Opens the live file under a second name, which is removed by close(): as long as it is there nobody takes the file for
 * complete, so that what is written to it is not lost when it is rotated in between. The file and its folder are made.
 * MUST be closed soon: who compresses waits for it.
 */
export async function openLive(f: LogFiles, mode: number): Promise<Opened> {
  const guard = join(f.dir, guardName(f))
  for (let tries = 0; ; tries++) {
    try {
      return (
        (await openThere(f, guard)) ?? (await openNew(f, guard, mode)) ?? (await openThere(f, guard)) ?? again(tries)
      )
    } catch (error) {
      await unlink(guard).catch(() => {})
      if (noLinks.includes(String((error as NodeJS.ErrnoException).code))) {
        const file = await open(livePath(f), flags | constants.O_CREAT, mode)
        return { file, close: () => file.close() }
      }
      if (!isGone(error) || tries > 10) throw error
      await mkdir(f.dir, { recursive: true })
    }
  }
}

function again(tries: number): never {
  throw Object.assign(new Error('The log comes and goes: other processes rotate it all the time.'), {
    code: tries > 10 ? 'EBUSY' : 'ENOENT',
  })
}

/** undefined when there is no live file */
async function openThere(f: LogFiles, guard: string): Promise<Opened | undefined> {
  try {
    await link(livePath(f), guard)
  } catch (error) {
    if (isGone(error)) return undefined
    throw error
  }
  return opened(await open(guard, flags), guard)
}

/** The second name comes first here, so that a new file is never without. undefined when another one made it meanwhile. */
async function openNew(f: LogFiles, guard: string, mode: number): Promise<Opened | undefined> {
  const file = await open(guard, flags | constants.O_CREAT | constants.O_EXCL, mode)
  try {
    await link(guard, livePath(f))
    return opened(file, guard)
  } catch (error) {
    await file.close()
    await unlink(guard)
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return undefined
    throw error
  }
}

function opened(file: FileHandle, guard: string): Opened {
  return {
    file,
    async close() {
      await file.close()
      await unlink(guard).catch(() => {})
    },
  }
}

/** Writes all of it, or says how much of it and why not the rest. */
export async function writeAll(file: FileHandle, bytes: Buffer): Promise<{ written: number; error?: unknown }> {
  let written = 0
  while (written < bytes.length) {
    try {
      written += (await file.write(bytes, written)).bytesWritten
    } catch (error) {
      return { written, error }
    }
  }
  return { written }
}
