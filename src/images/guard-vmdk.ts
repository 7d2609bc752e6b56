import type { ImageError } from './errors.ts'
import { FormatError } from './formats/source.ts'
import {
  checkVmdkBounds,
  parseVmdk,
  type VmdkDescriptor,
  type VmdkExtent,
  type VmdkSparseHeader,
} from './formats/index.ts'
import { type GraphBuilder, type OwnExtent, ownDescriptor, pinnedNode } from './graph.ts'
import { type GuardedImage, pad512, refused } from './guarded.ts'
import { isPlainName } from './walk.ts'
import type { ImageWindow } from './window.ts'

/**
 * A VMDK is one sparse file, or a descriptor that names its extents. In the second case qemu never sees the descriptor: we open
 * the extents ourselves and write a descriptor of our own that knows them by number.
 */
export async function guardVmdk(w: ImageWindow): Promise<GuardedImage> {
  const file = await parseVmdk(w.source)
  if (file.kind === 'descriptor') return guardExtents(w, file.descriptor)
  if (file.header.capacity_bytes === 0) {
    // a sparse header that counts for nothing: qemu would follow the embedded descriptor's extents
    if (!file.header.descriptor)
      throw new FormatError('bad-header', 'The VMDK header states a capacity of 0 and has no descriptor.')
    return guardExtents(w, file.header.descriptor)
  }
  const { header, pinned } = await pinSparse(w)
  checkNoParent(w, header.descriptor)
  const type = header.descriptor?.create_type
  return {
    format: 'vmdk',
    subformat: type || (header.compressed ? 'streamOptimized' : 'monolithicSparse'),
    virtual_size: header.capacity_bytes,
    sparse: header,
    windows: [w],
    warnings: [],
    bounds: (signal) => checkVmdkBounds(w.source, header, signal),
    node: async (b) => ({
      driver: 'vmdk',
      file: (await pinnedNode(b, { fd: w.file.handle.fd, offset: w.offset, size: w.size, pinned })).node,
    }),
  }
}

/** Reads header and descriptor once more, as the bytes that qemu will get. */
async function pinSparse(w: ImageWindow): Promise<{ header: VmdkSparseHeader; pinned: Buffer }> {
  const first = await parseVmdk(w.source)
  if (first.kind !== 'sparse') throw changed(w)
  const pinned = pad512(await w.source.read(0, first.header.name_area_bytes))
  const again = await parseVmdk({
    size: w.size,
    read: async (at, n) => (at + n <= pinned.length ? pinned.subarray(at, at + n) : w.source.read(at, n)),
  })
  if (again.kind !== 'sparse' || again.header.name_area_bytes !== first.header.name_area_bytes) throw changed(w)
  if (again.header.capacity_bytes === 0) throw changed(w)
  return { header: again.header, pinned }
}

interface OpenExtent {
  extent: VmdkExtent
  window?: ImageWindow
  pinned?: Buffer
  header?: VmdkSparseHeader
}

async function guardExtents(w: ImageWindow, d: VmdkDescriptor): Promise<GuardedImage> {
  checkNoParent(w, d)
  if (d.extents.length === 0) throw new FormatError('bad-descriptor', 'The VMDK descriptor has no extents.')
  const open: OpenExtent[] = []
  let sectors = 0
  for (const extent of d.extents) {
    sectors += extent.sectors
    open.push(await openExtent(w, extent))
  }
  return {
    format: 'vmdk',
    subformat: d.create_type || 'custom',
    virtual_size: sectors * 512,
    windows: [w, ...open.flatMap((e) => (e.window ? [e.window] : []))],
    warnings: [],
    bounds: async (signal) => {
      for (const e of open) if (e.header && e.window) await checkVmdkBounds(e.window.source, e.header, signal)
    },
    node: (b) => extentsNode(b, open),
  }
}

async function openExtent(w: ImageWindow, extent: VmdkExtent): Promise<OpenExtent> {
  if (extent.sectors === 0) throw new FormatError('bad-descriptor', 'The VMDK descriptor has an extent of 0 sectors.')
  if (extent.type === 'ZERO') return { extent }
  if (!['FLAT', 'VMFS', 'SPARSE'].includes(extent.type)) {
    const delta = extent.type === 'VMFSSPARSE' || extent.type === 'SESPARSE'
    throw refused(
      w,
      'unsupported',
      `has an extent of the type ${extent.type}${delta ? ", which is a snapshot's changes and not a whole disk" : ', which is not supported'}`,
      delta ? "Consolidate the VM's snapshots and export again." : 'Export the disk as an ordinary VMDK.',
    )
  }
  if (extent.file === undefined)
    throw new FormatError('bad-descriptor', `The VMDK descriptor has a ${extent.type} extent without a file name.`)
  if (!isPlainName(extent.file)) {
    throw refused(
      w,
      'reference-refused',
      `refers to ${JSON.stringify(extent.file)}, which is no plain file name. Only files in the same folder may be referred to`,
      'Put all files of the disk into one folder and refer to them by name alone.',
    )
  }
  const window = await w.sibling(extent.file)
  if (extent.type === 'SPARSE') {
    const { header, pinned } = await sparseExtent(window)
    checkNoParent(window, header.descriptor)
    if (header.capacity_bytes < extent.sectors * 512) {
      throw refused(
        window,
        'truncated',
        `holds ${header.capacity_bytes} bytes, but its descriptor states ${extent.sectors * 512} for it`,
        'Copy all files of the disk again.',
      )
    }
    return { extent, window, pinned, header }
  }
  const end = (extent.offset_sectors + extent.sectors) * 512
  if (end > Math.ceil(window.size / 512) * 512) {
    throw refused(
      window,
      'truncated',
      `has ${window.size} bytes, but its descriptor needs ${end}: it is cut off or still being written`,
      'Copy all files of the disk again.',
    )
  }
  return { extent, window }
}

async function sparseExtent(w: ImageWindow): Promise<{ header: VmdkSparseHeader; pinned: Buffer }> {
  const file = await parseVmdk(w.source)
  if (file.kind !== 'sparse' || file.header.capacity_bytes === 0) {
    throw refused(
      w,
      'reference-refused',
      'is named as a sparse extent but is no sparse VMDK of its own',
      'Copy all files of the disk again.',
    )
  }
  return pinSparse(w)
}

async function extentsNode(b: GraphBuilder, open: readonly OpenExtent[]): Promise<Record<string, unknown>> {
  const lines: OwnExtent[] = []
  const children: Record<string, unknown> = {}
  for (const { extent, window, pinned } of open) {
    const sectors = extent.sectors
    if (!window) lines.push({ type: 'FLAT', sectors, file: await b.zeros(sectors * 512), offset: 0 })
    else if (!pinned)
      lines.push({
        type: 'FLAT',
        sectors,
        file: b.file(window.file.handle.fd),
        offset: window.offset / 512 + extent.offset_sectors,
      })
    else {
      const p = await pinnedNode(b, { fd: window.file.handle.fd, offset: window.offset, size: window.size, pinned })
      // qemu opens an extent by file name; naming the driver makes it read that file as our descriptor of the pinned extent
      children[`extents.${lines.length}.driver`] = 'vmdk'
      lines.push({ type: 'SPARSE', sectors, file: p.descriptor, offset: 0 })
    }
  }
  const top = await b.text(ownDescriptor(lines))
  return { driver: 'vmdk', file: { driver: 'file', filename: top }, ...children }
}

function checkNoParent(w: ImageWindow, d: VmdkDescriptor | undefined): void {
  if (!d) return
  if (d.parent_hint !== undefined || d.parent_cid !== 'ffffffff') {
    throw refused(
      w,
      'has-parent',
      `names the parent disk ${JSON.stringify(d.parent_hint ?? d.parent_cid)}, so it is only the changes to another file`,
      'Consolidate the snapshots and export again.',
    )
  }
}

function changed(w: ImageWindow): ImageError {
  return refused(w, 'changed', 'changed while it was read', 'Wait until nobody writes to the file.')
}
