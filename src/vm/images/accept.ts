/** What a file that was fetched really is, and how it becomes an image of the cache. */
import { open, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import {
  detectFormat,
  graphBuilder,
  guardImage,
  ImageError,
  imageInfo,
  openBeneath,
  wholeFile,
} from '../../images/index.ts'
import { VmError } from '../types.ts'
import { codeOf, ownedLike, syncFolder } from './files.ts'
import { hashes } from './hash.ts'
import { fileName } from './names.ts'
import { type ImageRecord, recordPath, writeRecord } from './record.ts'
import type { ImageFormat, ImageHooks } from './types.ts'

export interface Inspected {
  format: ImageFormat
  virtual_size_bytes: number
}

/**
 * Reads what a file is. Never by its name: `.img` may be either. qcow2 that names other files (backing file, data file) is refused, so is
 * what neither qcow2 nor a disk is.
 * @param dir the cache, in which the file lies
 * @param label how messages call it
 * @throws {VmError} image-invalid; the signal's reason
 */
export async function inspect(
  path: string,
  dir: string,
  wanted: ImageFormat | undefined,
  o: { max_virtual_size: number; signal?: AbortSignal; spawned?: ImageHooks['spawned']; label?: string },
): Promise<Inspected> {
  const label = o.label ?? path
  try {
    const file = await openBeneath(path, [dir])
    try {
      const w = { ...wholeFile(file, async (f) => f.close()), label }
      const format = await formatOf(w.source, wanted, label)
      const guarded = await guardImage(w, format, { maxVirtualSize: o.max_virtual_size, signal: o.signal })
      if (format === 'qcow2') {
        // a second opinion: qemu's own, bounded in memory and time
        const b = graphBuilder(join(dir, 'partial'))
        try {
          const node = await guarded.node(b)
          await imageInfo({ node, fds: b.fds() }, { signal: o.signal, spawned: o.spawned })
        } finally {
          await b.close()
        }
      }
      return { format, virtual_size_bytes: Math.ceil(guarded.virtual_size / 512) * 512 }
    } finally {
      await file.close()
    }
  } catch (e) {
    if (!(e instanceof ImageError)) throw e
    if (e.transient) throw new VmError(e.message, { code: 'storage', transient: true, hint: e.hint, cause: e })
    throw new VmError(e.message, { code: 'image-invalid', hint: e.hint, cause: e })
  }
}

type Source = Parameters<typeof detectFormat>[0]

async function formatOf(source: Source, wanted: ImageFormat | undefined, label: string): Promise<ImageFormat> {
  const looks = await detectFormat(source)
  const invalid = (what: string, hint: string): VmError =>
    new VmError(`${label} ${what}.`, { code: 'image-invalid', hint })
  if (looks === 'qcow2') {
    if (wanted !== 'raw') return 'qcow2'
    throw invalid('is a qcow2 image, not raw', 'Set format to qcow2, or leave it out.')
  }
  if (looks !== undefined) {
    const packed = ['gzip', 'xz', 'bzip2', 'zstd', 'zip', 'tar'].includes(looks)
    throw invalid(
      `is ${looks === 'ovf' ? 'an XML document' : packed ? `packed with ${looks}` : `a ${looks} image`}, not qcow2 or raw`,
      packed
        ? 'Unpack it, and take the disk in with "vmspool image add".'
        : looks === 'ovf'
          ? 'Check the address: servers answer with a page where the file should be.'
          : 'Convert it first: vmspool convert DISK -o FOLDER, then "vmspool image add".',
    )
  }
  const head = await source.read(0, 4096)
  if (/^\s*<(?:!doctype|html|head|\?xml|error)/i.test(head.toString('latin1', 0, 512)))
    throw invalid('is a web page or another document, no disk', 'Check the address in a browser.')
  if (wanted === 'qcow2')
    throw invalid('is no qcow2 image: it has no qcow2 signature', 'Check the address and the format.')
  if (wanted === 'raw' || (await hasPartitions(source, head))) return 'raw'
  throw invalid(
    'is neither qcow2 nor a disk with a partition table',
    'If it really is a raw disk, say so with format: raw (--format raw).',
  )
}

/** MBR (also the protective one of a GPT), GPT of 4096-byte sectors, or ISO 9660. */
async function hasPartitions(source: Source, head: Buffer): Promise<boolean> {
  if (head.length >= 512 && head.readUInt16LE(510) === 0xaa55) return true
  const at = async (offset: number, text: string) =>
    (await source.read(offset, text.length)).toString('latin1') === text
  return (await at(4096, 'EFI PART')) || (await at(512, 'EFI PART')) || (await at(0x8001, 'CD001'))
}

export interface Fetched {
  /** in the folder `partial` of the cache */
  path: string
  name: string
  /** how messages call it */
  label: string
  origin: string
  source?: string
  checksum?: string
  format?: ImageFormat
  etag?: string
  last_modified?: string
  file?: ImageRecord['file']
}

/**
 * Checks a fetched file and puts it in place, durably. The file is consumed.
 * @throws {VmError} image-checksum, image-invalid, storage; the signal's reason
 */
export async function accept(
  dir: string,
  f: Fetched,
  o: ImageHooks & { max_virtual_size: number },
): Promise<{ path: string; record: ImageRecord }> {
  const h = await open(f.path, 'r')
  try {
    const { size } = await h.stat()
    if (size === 0) throw new VmError(`${f.label} is empty (0 bytes).`, { code: 'image-invalid' })
    const sums = await hashes(h, f.checksum?.startsWith('sha512:') ? ['sha256', 'sha512'] : ['sha256'], {
      signal: o.signal,
      onBytes: (done) => o.progress?.(done, size, { doing: 'checks the checksum' }),
    })
    verify(f, sums as { sha256: string; sha512?: string }, size)
    const seen = await inspect(f.path, dir, f.format, { ...o, label: f.label })
    await h.chmod(0o444)
    await ownedLike(dir, f.path)
    await h.sync()
    const s = await h.stat()
    const now = new Date().toISOString()
    const record: ImageRecord = {
      schema: 1,
      name: f.name,
      format: seen.format,
      size_bytes: size,
      virtual_size_bytes: seen.virtual_size_bytes,
      mtime_ms: s.mtimeMs,
      ...(sums as { sha256: string }),
      ...definedOf({ source: f.source, etag: f.etag, last_modified: f.last_modified, file: f.file }),
      added_at: now,
      used_at: now,
    }
    const path = join(dir, fileName({ ...f, sha256: record.sha256, format: seen.format }))
    // the same bytes again: the file that VMs are linked to stays, only what is known of it changes
    const there = await sameSize(path, size)
    // the record first: an image that is there has one
    await writeRecord(path, there === undefined ? record : { ...record, mtime_ms: there }, { durable: true })
    if (there === undefined) await rename(f.path, path)
    else await rm(f.path, { force: true })
    await syncFolder(dir)
    return { path, record: there === undefined ? record : { ...record, mtime_ms: there } }
  } finally {
    await h.close()
  }
}

async function sameSize(path: string, size: number): Promise<number | undefined> {
  try {
    const h = await open(path, 'r')
    try {
      const s = await h.stat()
      return s.size === size ? s.mtimeMs : undefined
    } finally {
      await h.close()
    }
  } catch (e) {
    if (codeOf(e) === 'ENOENT') return undefined
    throw e
  }
}

function verify(f: Fetched, sums: { sha256: string; sha512?: string }, size: number): void {
  if (f.checksum === undefined) return
  const [algorithm, hex] = f.checksum.split(':') as ['sha256' | 'sha512', string]
  if (sums[algorithm] === hex) return
  throw new VmError(
    `${f.label} is not the image that was meant: its ${algorithm} is ${sums[algorithm]}, but ${hex} is wanted (${size} bytes were read).`,
    {
      code: 'image-checksum',
      hint: 'The publisher may have put another file there: compare with the checksum file beside it, then correct the checksum. Nothing was kept.',
    },
  )
}

function definedOf<T extends object>(o: T): Partial<T> {
  return Object.fromEntries(Object.entries(o).filter(([, v]) => v !== undefined)) as Partial<T>
}

/** Removes an image and its record. */
export async function dropFiles(path: string): Promise<void> {
  await rm(path, { force: true })
  await rm(recordPath(path), { force: true })
}
