/** What lies in the cache. The files are the truth; records are made again where they are lost or do not fit. */
import { constants } from 'node:fs'
import { type FileHandle, open, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Template } from '../../config/index.ts'
import { inspect } from './accept.ts'
import { codeOf } from './files.ts'
import { hashes } from './hash.ts'
import { BY_HAND, fileName, type ImageName, originOf, parseFileName } from './names.ts'
import { type ImageRecord, readRecord, recordPath, writeRecord } from './record.ts'
import { VmError } from '../types.ts'
import type { CachedImage } from './types.ts'

/** An image and all that is known of it. */
export interface Entry {
  path: string
  file: string
  origin: string
  record: ImageRecord
  links: number
  /** bytes on the disk */
  disk_bytes: number
}

/** @param only: name of the images that are wanted */
export async function scan(
  dir: string,
  o: { only?: string; max_virtual_size: number; signal?: AbortSignal },
): Promise<Entry[]> {
  const names = await readdir(dir).catch((e) => {
    if (codeOf(e) === 'ENOENT') return []
    throw e
  })
  const found: Entry[] = []
  for (const file of names.sort()) {
    const parsed = parseFileName(file)
    if (!parsed || (o.only !== undefined && parsed.name !== o.only)) continue
    const entry = await look(dir, file, parsed, o)
    if (entry) found.push(entry)
  }
  return found
}

async function look(
  dir: string,
  file: string,
  parsed: ImageName,
  o: { max_virtual_size: number; signal?: AbortSignal },
): Promise<Entry | undefined> {
  const path = join(dir, file)
  let h: FileHandle
  try {
    // opening, unlike stat(2), asks the server of a network file system, so the number of links is the true one
    h = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
  } catch (e) {
    if (codeOf(e) === 'ENOENT' || codeOf(e) === 'ELOOP' || codeOf(e) === 'EACCES') return undefined
    throw e
  }
  try {
    const s = await h.stat()
    if (!s.isFile()) return undefined
    const record = await readRecord(path)
    const entry = { path, file, origin: parsed.origin, links: s.nlink, disk_bytes: s.blocks * 512 }
    const fits =
      record?.name === parsed.name &&
      record.format === parsed.format &&
      record.sha256.startsWith(parsed.hash) &&
      record.size_bytes === s.size &&
      record.mtime_ms === s.mtimeMs
    return fits ? { ...entry, record } : await again(dir, h, entry, parsed, record, o)
  } finally {
    await h.close()
  }
}

/** Makes the record of a file again from its content. A file that is not what its name says goes on under its true name, and as nobody's template. */
async function again(
  dir: string,
  h: FileHandle,
  entry: Omit<Entry, 'record'>,
  parsed: ImageName,
  old: ImageRecord | undefined,
  o: { max_virtual_size: number; signal?: AbortSignal },
): Promise<Entry | undefined> {
  const s = await h.stat()
  const seen = await inspect(entry.path, dir, parsed.format, o).catch((e) => {
    if (e instanceof VmError && e.code === 'image-invalid') return undefined
    throw e
  })
  if (!seen) return undefined // no image any more; it stays where it is, for VMs may run on it
  const sums = await hashes(h, ['sha256', 'sha512'], o)
  const same = sums.sha256.startsWith(parsed.hash)
  const time = new Date(s.mtimeMs).toISOString()
  const record: ImageRecord = {
    schema: 1,
    name: parsed.name,
    format: parsed.format,
    size_bytes: s.size,
    virtual_size_bytes: seen.virtual_size_bytes,
    mtime_ms: s.mtimeMs,
    ...sums,
    ...(same && old?.sha256 === sums.sha256
      ? { source: old.source, etag: old.etag, last_modified: old.last_modified, file: old.file }
      : {}),
    added_at: old?.added_at ?? time,
    used_at: old?.used_at ?? new Date().toISOString(),
  }
  const origin = same ? parsed.origin : CHANGED
  const file = fileName({ ...parsed, origin, sha256: sums.sha256 })
  const path = join(dir, file)
  try {
    if (path !== entry.path) {
      await rename(entry.path, path)
      await rm(recordPath(entry.path), { force: true })
    }
    await writeRecord(path, record, { durable: false })
    return { ...entry, path, file, origin, record }
  } catch (e) {
    // who may only look sees the same, and cannot write it down
    if (!['EACCES', 'EPERM', 'EROFS', 'ENOSPC', 'EDQUOT'].includes(codeOf(e) ?? '')) throw e
    return { ...entry, origin, record }
  }
}

/** Origin of a file that somebody wrote to. */
const CHANGED = 'ffffffff'

/** Whether an image is what a template means now. */
function matches(e: Entry, t: Template | undefined, file?: ImageRecord['file']): boolean {
  if (e.origin === CHANGED) return false
  if (!t) return e.origin === BY_HAND
  if (t.checksum !== undefined) {
    const [algorithm, hex] = t.checksum.split(':') as ['sha256' | 'sha512', string]
    return e.record[algorithm] === hex
  }
  if (e.origin !== originOf(t)) return false
  if (t.path === undefined || file === undefined) return true
  // unknown after the record was lost: taking it anew costs little and tells
  const was = e.record.file
  return was?.size === file.size && was.mtime_ms === file.mtime_ms && was.ino === file.ino
}

/** The newest image that matches. */
export function currentOf(
  entries: readonly Entry[],
  t: Template | undefined,
  file?: ImageRecord['file'],
): Entry | undefined {
  return entries.filter((e) => matches(e, t, file)).sort((a, b) => (a.record.added_at < b.record.added_at ? 1 : -1))[0]
}

export function asImage(e: Entry, current: boolean): CachedImage {
  const { record: r } = e
  return {
    name: r.name,
    path: e.path,
    format: r.format,
    size_bytes: r.size_bytes,
    virtual_size_bytes: r.virtual_size_bytes,
    sha256: r.sha256,
    ...(r.source === undefined ? {} : { source: r.source }),
    added_at: r.added_at,
    used_at: r.used_at,
    in_use: e.links - 1,
    current,
    added: e.origin === BY_HAND,
  }
}
