/** Files that a command's manifest names: a job may read only what its submitter may read. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ImageError } from '../images/errors.ts'
import { checkSubmitter, type Submitter, submitterOf } from '../images/submitter.ts'
import { openBeneath } from '../images/walk.ts'
import type { CommandManifest } from '../manifest/index.ts'
import { type JobDrop, JobError } from './types.ts'

type OpenFile = Awaited<ReturnType<typeof openBeneath>>

/**
 * Opens a file that the submitter may read, reached without following links, for as long as `use` takes.
 * @param field where the manifest names it, for the error's text
 * @throws {JobError} not-found, submitter-permission, …: why it cannot be read
 */
export async function withFileOf<T>(
  path: string,
  who: Submitter,
  field: string,
  use: (file: OpenFile) => Promise<T>,
): Promise<T> {
  try {
    const file = await openBeneath(path, ['/'])
    try {
      await checkSubmitter(file, who)
      return await use(file)
    } finally {
      await file.close()
    }
  } catch (error) {
    if (!(error instanceof ImageError)) throw error
    throw new JobError(`${field}: ${error.message}`, {
      code: error.code,
      transient: error.transient,
      hint: error.hint,
      phase: 'start',
      cause: error,
    })
  }
}

/** Runs `start` with what is to be the program's standard input: a path, an open descriptor, or undefined for none. */
export async function withStdin<T>(
  m: CommandManifest,
  o: { drop: JobDrop; dir: string },
  start: (stdin: string | number | undefined) => Promise<T>,
): Promise<T> {
  const { stdin, stdin_file } = m.command
  if (stdin_file !== undefined) {
    const who = await submitterOf(o.drop.uid, o.drop.gid)
    return withFileOf(stdin_file, who, 'command.stdin_file', (file) => start(file.handle.fd))
  }
  if (stdin === undefined) return start(undefined)
  const path = join(o.dir, 'stdin')
  await writeFile(path, stdin, { mode: 0o600 })
  return start(path)
}
