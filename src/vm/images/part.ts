/**
 * A download that is not whole yet: `partial/<name>@<origin>.<random>.part` and what is known of it in `.part.json`. A part has one writer.
 * Who takes over from a process that is certainly dead goes on in its file; from any other (stalled, or on another host) in a copy, so
 * that a late write of the former one can never reach what is checked and used.
 */
import { randomBytes } from 'node:crypto'
import { constants } from 'node:fs'
import { copyFile, type FileHandle, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { bootId, identify, isAlive, isLocal } from '../../process/index.ts'
import { codeOf, ownedLike, writeWhole } from './files.ts'
import { folders } from './names.ts'

const schema = z.object({
  schema: z.literal(1),
  name: z.string(),
  origin: z.string(),
  /** what the server calls this version of the file: only the rest of the very same may be added */
  etag: z.string().optional(),
  last_modified: z.string().optional(),
  /** bytes of the whole file */
  total: z.int().min(0).optional(),
  writer: z.object({ pid: z.int(), start_ticks: z.int(), boot_id: z.string(), pidns: z.int() }),
  /** the writer has closed the file: it is anybody's */
  closed: z.boolean(),
  /** so many bytes survive a power loss */
  synced: z.int().min(0),
})

type PartRecord = z.output<typeof schema>
/** What a server says of the version that is being fetched. */
export type Version = Pick<PartRecord, 'etag' | 'last_modified' | 'total'>

export interface Part extends AsyncDisposable {
  readonly path: string
  /** bytes that are there */
  size: number
  /** put together from several replies */
  joined: boolean
  version: Version
  /** at the end of the file */
  write(piece: Buffer): Promise<void>
  /** begins again with another version */
  restart(v: Version): Promise<void>
  /** makes what is there durable, and says so in the record */
  sync(): Promise<void>
  /** removes it */
  discard(): Promise<void>
}

/** MUST be called by the holder of the download's lock. */
export async function openPart(dir: string, name: string, origin: string): Promise<Part> {
  const { partial } = folders(dir)
  const prefix = `${name}@${origin}.`
  const path = join(partial, `${prefix}${randomBytes(6).toString('hex')}.part`)
  const found = await adopt(partial, prefix, path)
  const h = await open(path, constants.O_RDWR | constants.O_CREAT, 0o600)
  await ownedLike(dir, path)
  return partOf(h, path, { name, origin }, found)
}

/** Moves or copies the largest usable part of others to `path`, and removes the others. */
async function adopt(partial: string, prefix: string, path: string): Promise<PartRecord | undefined> {
  let best: { path: string; record: PartRecord; size: number } | undefined
  for (const file of await readdir(partial)) {
    if (!file.startsWith(prefix) || !file.endsWith('.part')) continue
    const one = join(partial, file)
    const record = await readPartRecord(one)
    const size = record ? await usable(one, record) : 0
    const better = record && size > (best?.size ?? 0)
    const worse = better ? best?.path : one
    if (better) best = { path: one, record, size }
    if (worse) await removePart(worse)
  }
  if (!best) return undefined
  const { record } = best
  if (record.closed || (isLocal(record.writer) && !isAlive(record.writer))) await rename(best.path, path)
  else await copyFile(best.path, path, constants.COPYFILE_FICLONE | constants.COPYFILE_EXCL)
  await removePart(best.path)
  await withFile(path, (h) => h.truncate(best.size))
  return record
}

/** After a power loss only what was made durable counts: a file system may show zeros behind it. */
async function usable(path: string, r: PartRecord): Promise<number> {
  const { size } = await stat(path)
  const sure = r.writer.boot_id === bootId() ? size : Math.min(size, r.synced)
  return Math.min(sure, r.total ?? sure)
}

async function withFile(path: string, f: (h: FileHandle) => Promise<unknown>): Promise<void> {
  const h = await open(path, 'r+')
  try {
    await f(h)
  } finally {
    await h.close()
  }
}

async function readPartRecord(path: string): Promise<PartRecord | undefined> {
  try {
    return schema.safeParse(JSON.parse(await readFile(`${path}.json`, 'utf8'))).data
  } catch {
    return undefined
  }
}

export async function removePart(path: string): Promise<void> {
  await rm(path, { force: true })
  await rm(`${path}.json`, { force: true })
}

/** How far another process is, for those who wait for it. */
export async function peekPart(dir: string, name: string, origin: string): Promise<{ size: number; total?: number }> {
  const { partial } = folders(dir)
  for (const file of await readdir(partial).catch(() => [])) {
    if (!file.startsWith(`${name}@${origin}.`) || !file.endsWith('.part')) continue
    const r = await readPartRecord(join(partial, file))
    const s = await stat(join(partial, file)).catch(() => undefined)
    if (s) return { size: s.size, ...(r?.total === undefined ? {} : { total: r.total }) }
  }
  return { size: 0 }
}

async function partOf(
  h: FileHandle,
  path: string,
  who: { name: string; origin: string },
  found: PartRecord | undefined,
): Promise<Part> {
  const writer = identify(process.pid)
  if (!writer) throw new Error('/proc does not show this process.')
  const { pid, start_ticks, boot_id, pidns } = writer
  const { size } = await h.stat()
  let synced = found ? Math.min(found.synced, size) : 0
  let gone = false
  let closed = false
  const record = (): Promise<void> => {
    const r: PartRecord = {
      schema: 1,
      ...who,
      ...part.version,
      writer: { pid, start_ticks, boot_id, pidns },
      closed,
      synced,
    }
    return writeWhole(`${path}.json`, JSON.stringify(r), { durable: false })
  }
  const part: Part = {
    path,
    size,
    joined: size > 0,
    version: found ? { etag: found.etag, last_modified: found.last_modified, total: found.total } : {},
    write: async (piece) => {
      let at = 0
      while (at < piece.length) at += (await h.write(piece, at, piece.length - at, part.size + at)).bytesWritten
      part.size += piece.length
    },
    restart: async (v) => {
      await h.truncate(0)
      part.size = 0
      part.joined = false
      synced = 0
      part.version = v
      await record()
    },
    sync: async () => {
      if (synced === part.size) return
      await h.datasync()
      synced = part.size
      await record()
    },
    discard: async () => {
      gone = true
      await removePart(path)
    },
    [Symbol.asyncDispose]: async () => {
      try {
        // who is cancelled leaves what there is to the next one; it may have been taken over meanwhile
        if (!gone && part.size > 0 && (await there(path))) {
          await h.datasync()
          synced = part.size
          closed = true
          await record()
        } else if (!gone) await removePart(path)
      } finally {
        await h.close()
      }
    },
  }
  // at once, for the one who takes over needs to know whether we live
  await record()
  return part
}

async function there(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    (e) => {
      if (codeOf(e) === 'ENOENT') return false
      throw e
    },
  )
}
