import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface TempDir extends AsyncDisposable {
  path: string
}

/** A private folder that is removed at the end of the block: `await using dir = await tempDir()`. */
export async function tempDir(at = tmpdir()): Promise<TempDir> {
  const path = await mkdtemp(join(at, 'vs-'))
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true, maxRetries: 5 }) }
}
