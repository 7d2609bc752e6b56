import { open } from 'node:fs/promises'

/** A small JSON file, opened and read (never stat: a network file system caches that); undefined when absent or unreadable as JSON. */
export async function readJson<T>(path: string): Promise<T | undefined> {
  try {
    const file = await open(path, 'r')
    try {
      return JSON.parse(await file.readFile('utf8')) as T
    } finally {
      await file.close()
    }
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code === 'ENOENT' || code === 'ESTALE' || code === 'ENOTDIR' || error instanceof SyntaxError) return undefined
    throw error
  }
}
