import { constants } from 'node:fs'
import { copyFile, mkdir, open, readFile, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'

/**
 * What a finished step left behind, recorded so that a later attempt need not do it again. The record is written after the
 * file is durable, so a record means a whole file.
 */
export interface CopyRecord {
  schema: 1
  step: 'copy'
  disk_id: string
  /** relative to the attempt's folder; where the file is made and where it goes at the end */
  file: string
  final: string
  size_bytes: number
  virtual_size_bytes: number
  /** what it was made from and how; another key means another file */
  key: string
  checksum_verified: boolean
  copy_ms: number
}

const FOLDER = 'artefacts'

/** fsyncs the file, then records it. */
export async function recordCopy(scratch: string, r: CopyRecord): Promise<void> {
  await syncFile(join(scratch, r.file))
  await writeRecord(scratch, r)
}

async function writeRecord(scratch: string, r: CopyRecord): Promise<void> {
  const folder = join(scratch, FOLDER)
  await mkdir(folder, { recursive: true })
  const path = join(folder, `${recordName(r)}.json`)
  const temp = `${path}.tmp`
  const h = await open(temp, 'w', 0o600)
  try {
    await h.writeFile(JSON.stringify(r, null, 2))
    await h.sync()
  } finally {
    await h.close()
  }
  await rename(temp, path)
  await syncFile(folder)
}

/**
 * Takes over a copy that an earlier attempt finished: moves it when that attempt is dead, else clones or copies it, so that nobody
 * else can write into what is ours. Undefined when there is none.
 */
export async function adoptCopy(
  scratch: string,
  earlier: readonly { dir: string; dead: boolean }[],
  want: { disk_id: string; file: string; final: string; key: string },
): Promise<{ record: CopyRecord; from: string; how: 'moved' | 'copied' } | undefined> {
  for (const { dir, dead } of earlier) {
    const record = await readRecord(dir, want)
    if (!record) continue
    const source = await existing(dir, record)
    if (source === undefined) continue
    const own: CopyRecord = { ...record, file: want.file, final: want.final }
    const target = join(scratch, want.file)
    await mkdir(join(target, '..'), { recursive: true })
    if (dead) {
      // the record first: after a crash in between the next attempt finds the file where it was, by the old record
      await writeRecord(scratch, own)
      await rename(source, target)
      await syncFile(join(target, '..'))
      return { record: own, from: dir, how: 'moved' }
    }
    try {
      await copyFile(source, target, constants.COPYFILE_FICLONE | constants.COPYFILE_EXCL)
    } catch (e) {
      await rm(target, { force: true })
      if ((e as NodeJS.ErrnoException).code === 'ENOENT') continue // its owner moved it meanwhile
      throw e
    }
    if ((await stat(target)).size !== record.size_bytes) {
      await rm(target, { force: true })
      continue
    }
    await recordCopy(scratch, own)
    return { record: own, from: dir, how: 'copied' }
  }
  return undefined
}

async function readRecord(
  dir: string,
  want: { disk_id: string; file: string; key: string },
): Promise<CopyRecord | undefined> {
  try {
    const r = JSON.parse(await readFile(join(dir, FOLDER, `${recordName(want)}.json`), 'utf8')) as CopyRecord
    return r.schema === 1 && r.step === 'copy' && r.key === want.key ? r : undefined
  } catch {
    return undefined
  }
}

async function existing(dir: string, r: CopyRecord): Promise<string | undefined> {
  for (const name of [r.file, r.final]) {
    const path = join(dir, name)
    const s = await stat(path).catch(() => undefined)
    if (s?.isFile() && s.size === r.size_bytes) return path
  }
  return undefined
}

function recordName(r: { disk_id: string; file: string }): string {
  return `copy-${r.file.replace(/^.*\//, '')}`
}

/** fsync of a file or folder. */
export async function syncFile(path: string): Promise<void> {
  const h = await open(path, 'r')
  try {
    await h.sync()
  } finally {
    await h.close()
  }
}
