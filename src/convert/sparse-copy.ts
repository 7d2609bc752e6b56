import { constants } from 'node:fs'
import { copyFile, rm, stat } from 'node:fs/promises'
import { type ProcessIdentity, runGroup } from '../process/index.ts'

export interface CopyHooks {
  signal: AbortSignal
  /** MUST be told of each child group before it can do harm */
  spawned(id: ProcessIdentity): void
}

/**
 * A copy of a finished image that shares nothing with it: cloned where the filesystem can, else copied with its holes, which
 * copy_file_range(2) would fill.
 * @throws the operating system's error, the signal's reason
 */
export async function copySparsely(from: string, to: string, hooks?: CopyHooks): Promise<void> {
  await rm(to, { force: true })
  try {
    await copyFile(from, to, constants.COPYFILE_FICLONE_FORCE | constants.COPYFILE_EXCL)
    return
  } catch (e) {
    await rm(to, { force: true })
    if ((e as NodeJS.ErrnoException).code === 'ENOENT') throw e
  }
  let stderr = ''
  const r = await runGroup(['cp', '--reflink=never', '--sparse=auto', '--', from, to], {
    signal: hooks?.signal,
    onSpawn: hooks?.spawned,
    env: { LC_ALL: 'C' },
    onStderr: (c) => {
      stderr = (stderr + c.toString('utf8')).slice(-2000)
    },
  })
  hooks?.signal.throwIfAborted()
  if (r.exit_code === 0) return
  await stat(from) // ENOENT: its owner moved it
  const code = /No space left|quota exceeded/.test(stderr) ? 'ENOSPC' : 'EIO'
  throw Object.assign(new Error(`cp could not copy ${from}: ${stderr.trim() || r.signal}`), { code })
}
