import { basename } from 'node:path'
import {
  FormatError,
  ImageError,
  type ImageWindow,
  listTar,
  MAX_OVF_BYTES,
  type TarMember,
  windowOf,
} from '../images/index.ts'

/** An OVF with the files that it may name: the members of an archive, or the folder that it lies in. */
export interface Shelf {
  get(name: string): Promise<ImageWindow>
  /** whether a file of that name is known to be there; undefined where that cannot be told without opening it */
  has(name: string): boolean | undefined
  ovfName: string
  ovf: Buffer
  /** the OVF's manifest */
  mf?: Buffer
}

/** Members are read in place, at their offset in the archive. */
export async function shelfOfOva(w: ImageWindow): Promise<Shelf> {
  const members = new Map<string, TarMember>()
  for (const m of await listTar(w.source)) {
    if (m.type === 'folder') continue
    const name = m.name.replace(/^(\.\/)+/, '')
    // which of the two was meant, and which one another tool would take, cannot be known
    if (members.has(name))
      throw new FormatError('bad-archive', `The archive has two members named ${JSON.stringify(name)}.`)
    members.set(name, m)
  }
  const ovfName = theOnlyOvf([...members.keys()])
  // an archive of a folder: everything lies below its name
  const folder = ovfName.slice(0, ovfName.lastIndexOf('/') + 1)
  const get = async (name: string): Promise<ImageWindow> => {
    const m = members.get(folder + name)
    if (!m)
      throw new FormatError(
        'bad-archive',
        `The archive has no member ${JSON.stringify(folder + name)}, which its OVF names.`,
      )
    if (m.type !== 'file')
      throw new FormatError(
        'bad-archive',
        `The archive's member ${JSON.stringify(folder + name)} is a link or a device, not a file with content. Pack it again with --hard-dereference --dereference.`,
      )
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
  const own = ovfName.slice(folder.length)
  const mfs = [...members.keys()]
    .filter((n) => n.startsWith(folder) && /\.mf$/i.test(n))
    .map((n) => n.slice(folder.length))
  const mfName = mfs.find((n) => n.slice(0, -3) === own.slice(0, -4)) ?? (mfs.length === 1 ? mfs[0] : undefined)
  return {
    get,
    has: (name) => members.has(folder + name),
    ovfName: own,
    ovf: await content(await get(own)),
    ...(mfName === undefined ? {} : { mf: await content(await get(mfName)) }),
  }
}

function theOnlyOvf(names: readonly string[]): string {
  // macOS packs "._vm.ovf" beside "vm.ovf"
  const found = names.filter((n) => /\.ovf$/i.test(n) && !/(^|\/)\._/.test(n))
  if (found.length !== 1)
    throw new FormatError('bad-archive', `The archive has ${found.length} .ovf members; an OVA has exactly one.`)
  return found[0]!
}

export async function shelfOfOvf(w: ImageWindow): Promise<Shelf> {
  const ovfName = basename(w.label)
  const mf = await w.sibling(`${ovfName.replace(/\.ovf$/i, '')}.mf`).then(content, (e: unknown) => {
    if (e instanceof ImageError && e.code === 'not-found') return undefined
    throw e
  })
  return {
    get: (name) => w.sibling(name),
    has: () => undefined,
    ovfName,
    ovf: await content(w),
    ...(mf === undefined ? {} : { mf }),
  }
}

async function content(w: ImageWindow): Promise<Buffer> {
  if (w.size > MAX_OVF_BYTES)
    throw new FormatError(
      'bad-ovf',
      `${JSON.stringify(w.label)} has ${w.size} bytes; at most ${MAX_OVF_BYTES} are read.`,
    )
  return w.source.read(0, w.size)
}
