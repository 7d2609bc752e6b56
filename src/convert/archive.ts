import { basename } from 'node:path'
import {
  type Digest,
  detectFormat,
  FormatError,
  ImageError,
  type ImageWindow,
  isPlainName,
  listTar,
  MAX_OVF_BYTES,
  type Ovf,
  parseMf,
  parseOvf,
  type SourceFormat,
  type TarMember,
  windowOf,
} from '../images/index.ts'

/** A disk inside an OVA or next to an OVF. */
export interface FoundDisk {
  id: string
  format: SourceFormat
  window: ImageWindow
  /** bytes, as the OVF states */
  capacity?: number
  /** of this disk's bytes, as the OVF's manifest states */
  digest?: Digest & { name: string }
}

/** What an OVA or OVF holds. */
export interface Expanded {
  disks: FoundDisk[]
  ovf: Ovf
}

/** Where files that an OVF names come from. */
interface Shelf {
  get(name: string): Promise<ImageWindow>
  ovfName: string
  ovf: string
  mf?: string
}

/** Finds the disks of an OVA (a tar, read in place) or OVF in the order of the virtual hardware. @throws {ImageError} */
export async function expandArchive(
  w: ImageWindow,
  kind: 'ova' | 'ovf',
  id: string,
  warnings: string[],
): Promise<Expanded> {
  try {
    const shelf = kind === 'ova' ? await shelfOfOva(w) : await shelfOfOvf(w)
    const ovf = parseOvf(shelf.ovf)
    const digests = shelf.mf === undefined ? undefined : parseMf(shelf.mf)
    if (!digests)
      warnings.push(`${JSON.stringify(w.label)} has no manifest (.mf), so its disks' checksums cannot be verified.`)
    const own = digests?.get(shelf.ovfName)
    if (own) await checkDescriptor(shelf, own)
    return { disks: await disksOf(shelf, ovf, id, digests), ovf }
  } catch (e) {
    if (!(e instanceof FormatError)) throw e
    const looks = e.code === 'not-tar' ? await detectFormat(w.source) : undefined
    const packed = looks === 'gzip' || looks === 'xz' || looks === 'bzip2' || looks === 'zstd' || looks === 'zip'
    throw new ImageError(
      `The ${kind} ${JSON.stringify(w.label)} was refused: ${packed ? `It is compressed with ${looks}, which this version does not read.` : e.message}`,
      {
        code: packed ? 'unsupported' : e.code,
        hint: packed
          ? `Unpack it with ${looks === 'zip' ? 'unzip' : looks} first.`
          : 'Check that the file is complete and undamaged, and export it again if not.',
        cause: e,
      },
    )
  }
}

async function shelfOfOva(w: ImageWindow): Promise<Shelf> {
  const members = (await listTar(w.source)).filter((m) => m.type === 'file')
  const byName = new Map<string, TarMember>()
  for (const m of members) {
    const name = m.name.replace(/^(\.\/)+/, '')
    // which of the two was meant, and which one another tool would take, cannot be known
    if (byName.has(name))
      throw new FormatError('bad-archive', `The archive has two members named ${JSON.stringify(name)}.`)
    byName.set(name, m)
  }
  const get = async (name: string): Promise<ImageWindow> => {
    const m = byName.get(name)
    if (!m)
      throw new FormatError('bad-archive', `The archive has no member ${JSON.stringify(name)}, which its OVF names.`)
    return {
      file: w.file,
      offset: w.offset + m.offset,
      size: m.size,
      whole: false,
      label: `${w.label}:${name}`,
      source: windowOf(w.source, m.offset, m.size),
      sibling: get,
    }
  }
  const descriptors = [...byName.keys()].filter((n) => n.toLowerCase().endsWith('.ovf'))
  if (descriptors.length !== 1)
    throw new FormatError('bad-archive', `The archive has ${descriptors.length} .ovf members; an OVA has exactly one.`)
  const ovfName = descriptors[0]!
  const mfName = `${ovfName.slice(0, -4)}.mf`
  return {
    get,
    ovfName,
    ovf: await text(await get(ovfName)),
    ...(byName.has(mfName) ? { mf: await text(await get(mfName)) } : {}),
  }
}

async function shelfOfOvf(w: ImageWindow): Promise<Shelf> {
  const ovfName = basename(w.label)
  const mf = await w.sibling(`${ovfName.replace(/\.ovf$/i, '')}.mf`).then(
    (m) => text(m),
    (e: unknown) => {
      if (e instanceof ImageError && e.code === 'not-found') return undefined
      throw e
    },
  )
  return { get: (name) => w.sibling(name), ovfName, ovf: await text(w), ...(mf === undefined ? {} : { mf }) }
}

async function text(w: ImageWindow): Promise<string> {
  if (w.size > MAX_OVF_BYTES)
    throw new FormatError(
      'bad-ovf',
      `${JSON.stringify(w.label)} has ${w.size} bytes; at most ${MAX_OVF_BYTES} are read.`,
    )
  return (await w.source.read(0, w.size)).toString('utf8')
}

async function checkDescriptor(shelf: Shelf, want: Digest): Promise<void> {
  const { createHash } = await import('node:crypto')
  const w = await shelf.get(shelf.ovfName).catch(() => undefined)
  const bytes = w ? await w.source.read(0, w.size) : Buffer.from(shelf.ovf)
  const got = createHash(want.algorithm).update(bytes).digest('hex')
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
  digests: Map<string, Digest> | undefined,
): Promise<FoundDisk[]> {
  const out: FoundDisk[] = []
  for (const [n, d] of ovf.disks.entries()) {
    const name = plainHref(d.href)
    const window = await shelf.get(name)
    const looks = await detectFormat(window.source)
    if (d.compression !== undefined && d.compression !== 'identity') {
      throw new FormatError(
        'unsupported',
        `The disk ${JSON.stringify(name)} is compressed (${d.compression}), which this version does not read. Unpack it first.`,
      )
    }
    if (looks !== undefined && ['gzip', 'xz', 'bzip2', 'zstd', 'zip'].includes(looks)) {
      throw new FormatError(
        'unsupported',
        `The disk ${JSON.stringify(name)} is compressed with ${looks}, which this version does not read. Unpack it first.`,
      )
    }
    const digest = digests?.get(name)
    out.push({
      id: ovf.disks.length === 1 ? id : `${id}-${n}`,
      format: formatByName(name),
      window,
      ...(d.capacity === undefined ? {} : { capacity: d.capacity }),
      ...(digest ? { digest: { ...digest, name } } : {}),
    })
  }
  return out
}

/** An href is a URI reference; only one that is a plain name in the same folder is followed. */
function plainHref(href: string): string {
  let name = href
  try {
    name = decodeURIComponent(href)
  } catch {
    // a stray percent sign: meant as it stands
  }
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

/** By name, as OVF tools do: what a file contains never chooses how it is opened. */
function formatByName(name: string): SourceFormat {
  const ext = /\.([a-z0-9]+)$/i.exec(name)?.[1]?.toLowerCase()
  if (ext === 'vmdk' || ext === 'qcow2' || ext === 'vhd' || ext === 'vhdx' || ext === 'vdi' || ext === 'raw') return ext
  if (ext === 'img') return 'raw'
  throw new FormatError(
    'unsupported',
    `The OVF's disk ${JSON.stringify(name)} has a name that tells no known format (.vmdk, .vhd, .vhdx, .vdi, .qcow2, .raw, .img).`,
  )
}
