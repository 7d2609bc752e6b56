/** Two ways to read the small files of jobs: for a program that does nothing else meanwhile, and beside other work. */
import { readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { errno, unlessStale } from '../process/errno.ts'

/** A file's text; undefined when it is not there (any more) or may not be read. */
export type ReadText = (path: string) => string | undefined | Promise<string | undefined>

const gone = new Set(['ENOENT', 'ENOTDIR', 'ESTALE', 'EACCES', 'EPERM', 'EISDIR'])

function absent(error: unknown): undefined {
  if (!gone.has(errno(error))) throw error
}

/** A tenth of the work of `beside`; for local files. */
export const atOnce: ReadText = (path) => {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    return absent(error)
  }
}

export const beside: ReadText = (path) => unlessStale(() => readFile(path, 'utf8')).catch(absent)
