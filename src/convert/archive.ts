import { createHash } from 'node:crypto'
import {
  type Digest,
  detectFormat,
  FormatError,
  ImageError,
  type ImageWindow,
  isPlainName,
  type Mf,
  type Ovf,
  parseMf,
  parseOvf,
  type SourceFormat,
} from '../images/index.ts'
import { type Shelf, shelfOfOva, shelfOfOvf } from './shelf.ts'
import { isPacked } from './unpack.ts'

/** A disk inside an OVA or next to an OVF. */
export interface FoundDisk {
  id: string
  format: SourceFormat
  window: ImageWindow
  /** gzip: must be unpacked before it is looked at */
  packed?: true
  /** bytes, as the OVF states */
  capacity?: number
  /** of the bytes in the package, packed or not, as the OVF's manifest states */
  digest?: Digest & { name: string }
}

/** What an OVA or OVF holds. */
export interface Expanded {
  disks: FoundDisk[]
  ovf: Ovf
}

const OTHER_PACKERS = ['xz', 'bzip2', 'zstd', 'zip']

/** Finds the disks of an OVA (a tar, read in place) or OVF in the order of the virtual hardware. @throws {ImageError} */
export async function expandArchive(
  w: ImageWindow,
  kind: 'ova' | 'ovf',
  id: string,
  warnings: string[],
): Promise<Expanded> {
  try {
    const shelf = kind === 'ova' ? await shelfOfOva(w) : await shelfOfOvf(w)
    const ovf = parseOvf(shelf.ovf.toString('utf8'))
    for (const empty of ovf.empty_disks ?? [])
      warnings.push(`The OVF's disk ${JSON.stringify(empty)} is empty (no file belongs to it) and is not made.`)
    const mf = shelf.mf === undefined ? undefined : parseMf(shelf.mf.toString('utf8'))
    if (mf) checkManifest(shelf, mf, ovf, warnings)
    else warnings.push(`${JSON.stringify(w.label)} has no manifest (.mf), so its disks' checksums cannot be verified.`)
    return { disks: await disksOf(shelf, ovf, id, mf, warnings), ovf }
  } catch (e) {
    if (!(e instanceof FormatError)) throw e
    throw await explain(e, w, kind)
  }
}

async function explain(e: FormatError, w: ImageWindow, kind: string): Promise<ImageError> {
  const looks = e.code === 'not-tar' ? ((await detectFormat(w.source)) ?? '') : ''
  const packed = OTHER_PACKERS.includes(looks) || looks === 'gzip'
  return new ImageError(
    `The ${kind} ${JSON.stringify(w.label)} was refused: ${packed ? `It is compressed with ${looks}, which is not read here.` : e.message}`,
    {
      code: packed ? 'unsupported' : e.code,
      hint: packed
        ? `Unpack it with ${looks === 'zip' ? 'unzip' : looks} first.`
        : 'Check that the file is complete and undamaged, and export it again if not.',
      cause: e,
    },
  )
}

/** The descriptor's own sum, and what in the manifest cannot be used. A line that may have been meant for a disk is no mere warning. */
function checkManifest(shelf: Shelf, mf: Mf, ovf: Ovf, warnings: string[]): void {
  const own = mf.digests.get(shelf.ovfName)
  if (own) checkDescriptor(shelf, own)
  const names = [shelf.ovfName, ...ovf.disks.flatMap((d) => [d.href, decoded(d.href)])]
  for (const line of mf.unread) {
    if (names.some((n) => n !== '' && line.includes(n)))
      throw new FormatError(
        'bad-ovf',
        `The OVF's manifest (.mf) has a line that cannot be read: ${JSON.stringify(line)}.`,
      )
    warnings.push(
      `The OVF's manifest (.mf) has a line that cannot be read, which was passed over: ${JSON.stringify(line)}.`,
    )
  }
  const strangers = [...mf.digests.keys()].filter((n) => !names.includes(n) && shelf.has(n) === false)
  if (strangers.length > 0) {
    const some = strangers.slice(0, 5).map((n) => JSON.stringify(n))
    warnings.push(
      `The OVF's manifest (.mf) has checksums of ${strangers.length} file(s) that are not in the archive: ${some.join(', ')}.`,
    )
  }
}

function checkDescriptor(shelf: Shelf, want: Digest): void {
  const got = createHash(want.algorithm).update(shelf.ovf).digest('hex')
  if (got !== want.hex) {
    throw new ImageError(
      `checksum mismatch for ${JSON.stringify(shelf.ovfName)}: the OVF's manifest expects ${want.algorithm}:${want.hex}, got ${want.algorithm}:${got}`,
      {
        code: 'checksum-mismatch',
        hint: 'The descriptor was changed after the export, or the file is damaged: export it again.',
      },
    )
  }
}

async function disksOf(
  shelf: Shelf,
  ovf: Ovf,
  id: string,
  mf: Mf | undefined,
  warnings: string[],
): Promise<FoundDisk[]> {
  const out: FoundDisk[] = []
  for (const [n, d] of ovf.disks.entries()) {
    const name = plainHref(d.href)
    const window = await fileOf(shelf, name, d)
    const format = formatByName(name) ?? d.format
    if (format === undefined)
      throw new FormatError(
        'unsupported',
        `Neither the name of the OVF's disk ${JSON.stringify(name)} (.vmdk, .vhd, .vhdx, .vdi, .qcow2, .raw, .img) nor its OVF tells a known format.`,
      )
    const packed = await packedWith(window, format, name, d.compression)
    const digest = mf?.digests.get(name) ?? mf?.digests.get(d.href)
    if (mf && !digest)
      warnings.push(`The OVF's manifest (.mf) has no checksum of ${JSON.stringify(name)}, so it cannot be verified.`)
    out.push({
      id: ovf.disks.length === 1 ? id : `${id}-${n}`,
      format,
      window,
      ...(packed ? { packed: true } : {}),
      ...(d.capacity === undefined ? {} : { capacity: d.capacity }),
      ...(digest ? { digest: { ...digest, name } } : {}),
    })
  }
  return out
}

async function fileOf(shelf: Shelf, name: string, d: Ovf['disks'][number]): Promise<ImageWindow> {
  const inParts = d.chunk_size !== undefined && shelf.has(name) !== true
  return shelf.get(name).catch((e: unknown) => {
    if (!inParts || !(e instanceof FormatError || (e instanceof ImageError && e.code === 'not-found'))) throw e
    throw new FormatError(
      'unsupported',
      `The disk ${JSON.stringify(name)} is stored in parts of ${d.chunk_size} bytes (${name}.000000000 and so on), which are not read here. Join them in their order into one file of that name and take ovf:chunkSize out of the OVF.`,
    )
  })
}

/** @throws {FormatError} unsupported, bad-ovf when it is not what the OVF says */
async function packedWith(
  w: ImageWindow,
  format: SourceFormat,
  name: string,
  stated: string | undefined,
): Promise<boolean> {
  const said = stated?.toLowerCase()
  if (said !== undefined && said !== 'identity' && said !== 'gzip')
    throw new FormatError(
      'unsupported',
      `The disk ${JSON.stringify(name)} is compressed (${stated}), which is not read here. Unpack it first.`,
    )
  const looks = await detectFormat(w.source)
  if (said === 'gzip') {
    if (looks === 'gzip') return true
    throw new FormatError(
      'bad-ovf',
      `The OVF says that ${JSON.stringify(name)} is compressed with gzip, but it is not.`,
    )
  }
  if (format !== 'raw' && format !== 'vhd' && looks !== undefined && OTHER_PACKERS.includes(looks))
    throw new FormatError(
      'unsupported',
      `The disk ${JSON.stringify(name)} is compressed with ${looks}, which is not read here. Unpack it first.`,
    )
  return isPacked(w, format)
}

/** An href is a URI reference; only one that is a plain name in the same folder is followed. */
function plainHref(href: string): string {
  const name = decoded(href).replace(/^(\.\/)+/, '')
  if (!isPlainName(name) || /^[a-z][a-z0-9+.-]*:/i.test(name)) {
    throw new ImageError(
      `The OVF refers to ${JSON.stringify(href)}, which is no plain file name. Only files in the same folder or archive may be referred to.`,
      {
        code: 'reference-refused',
        hint: 'Export the VM with all its files in one folder.',
      },
    )
  }
  return name
}

function decoded(href: string): string {
  try {
    return decodeURIComponent(href)
  } catch {
    return href // a stray percent sign: meant as it stands
  }
}

/** By name, as OVF tools do: what a file contains never chooses how it is opened. */
function formatByName(name: string): SourceFormat | undefined {
  const ext = /\.([a-z0-9]+)$/i.exec(name.replace(/\.(gz|gzip)$/i, ''))?.[1]?.toLowerCase()
  if (ext === 'vmdk' || ext === 'qcow2' || ext === 'vhd' || ext === 'vhdx' || ext === 'vdi' || ext === 'raw') return ext
  return ext === 'img' ? 'raw' : undefined
}
