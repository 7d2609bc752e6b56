/** One write to the end of a log that others may rotate at the same moment. */
import { constants } from 'node:fs'
import { type FileHandle, link, mkdir, open, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { isGone, livePath, type LogFiles } from './log-files.ts'
import { guardName } from './log-guard.ts'

const flags = constants.O_RDWR | constants.O_APPEND

/**
 * Opens the live file under a second name, which is removed by close(): as long as it is there nobody takes the file for
 * complete, so that what is written to it is not lost when it is rotated in between. The file and its folder are made.
 * MUST be closed soon: who compresses waits for it.
 */
export async function openLive(f: LogFiles, mode: number): Promise<{ file: FileHandle; close(): Promise<void> }> {
  const live = livePath(f)
  const guard = join(f.dir, guardName(f))
  for (let tries = 0; ; tries++) {
    try {
      await link(live, guard)
    } catch (error) {
      const code = String((error as NodeJS.ErrnoException).code)
      // A file system without second names (vfat, some of FUSE), or a file of another user: then without.
      if (['EPERM', 'EACCES', 'ENOTSUP', 'EOPNOTSUPP', 'EMLINK', 'ENOSYS'].includes(code)) {
        const file = await open(live, flags | constants.O_CREAT, mode)
        return { file, close: () => file.close() }
      }
      if (!isGone(error) || tries > 10) throw error
      await create(f, mode)
      continue
    }
    try {
      const file = await open(guard, flags)
      return {
        file,
        async close() {
          await file.close()
          await unlink(guard).catch(() => {})
        },
      }
    } catch (error) {
      await unlink(guard).catch(() => {})
      if (!isGone(error) || tries > 10) throw error
    }
  }
}

async function create(f: LogFiles, mode: number): Promise<void> {
  const make = async (): Promise<void> => (await open(livePath(f), flags | constants.O_CREAT, mode)).close()
  try {
    await make()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    await mkdir(f.dir, { recursive: true })
    await make()
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
