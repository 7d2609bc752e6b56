import { readFile } from 'node:fs/promises'
import { errno, unlessStale } from '../process/errno.ts'

/** A small JSON file, opened and read (never stat: a network file system caches that); undefined when absent or unreadable as JSON. */
export async function readJson<T>(path: string): Promise<T | undefined> {
  try {
    return JSON.parse(await unlessStale(() => readFile(path, 'utf8'))) as T
  } catch (error) {
    const code = errno(error)
    if (code === 'ENOENT' || code === 'ESTALE' || code === 'ENOTDIR' || error instanceof SyntaxError) return undefined
    throw error
  }
}
