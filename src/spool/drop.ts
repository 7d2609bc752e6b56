/** Dropping a manifest the safe way: written under a dot name, made durable, then renamed into sight. */
import { join } from 'node:path'
import { errno, SpoolError } from './errors.ts'
import { randomHex, type Spool } from './spool.ts'

/**
 * Drops bytes into queue/ and returns the drop's name: the given stem, made unique, so that two clients never overwrite each
 * other. Durable when it returns.
 * @throws SpoolError 77 without permission, 74 on I/O errors
 */
export async function drop(s: Spool, bytes: Uint8Array, fileName: string): Promise<string> {
  const dot = fileName.lastIndexOf('.')
  const ext = dot > 0 ? fileName.slice(dot) : '.json'
  const stem = (dot > 0 ? fileName.slice(0, dot) : fileName)
    .replace(/[^\w.-]+/g, '_')
    .replace(/^\.+/, '')
    .slice(0, 100)
  const name = `${stem || 'job'}.${randomHex(s, 8)}${ext}`
  const temp = join(s.layout.queue, `.${name}.part`)
  try {
    await s.fs.writeFile(temp, bytes, { mode: 0o640, sync: true, exclusive: true })
    await s.fs.rename(temp, join(s.layout.queue, name))
    await durable(s, join(s.layout.queue, name))
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? ''
    throw new SpoolError(
      `The manifest could not be dropped into ${s.layout.queue}: ${String((error as Error).message)}. ` +
        (code === 'EACCES' ? 'You need write permission there (the group that may submit).' : 'Nothing was submitted.'),
      code === 'EACCES' || code === 'EPERM' ? 77 : 74,
      { cause: error },
    )
  }
  return name
}

/**
 * Whoever may drop but not list (mode 3730) cannot open the folder to fsync it. The file itself then: Linux's journalling
 * filesystems make its name durable with it. It may have been taken by now, and whoever took it makes it durable.
 */
async function durable(s: Spool, path: string): Promise<void> {
  try {
    await s.sync(s.layout.queue)
  } catch (error) {
    if (errno(error) !== 'EACCES') throw error
    await s.fs.syncFile(path).catch((e) => {
      if (errno(e) !== 'ENOENT') throw e
    })
  }
}
