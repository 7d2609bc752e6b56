import { ImageError } from './errors.ts'
import { FormatError } from './formats/source.ts'
import {
  checkQcow2Bounds,
  checkVhdxBounds,
  detectFormat,
  parseQcow2,
  parseVdi,
  parseVhd,
  parseVhdx,
} from './formats/index.ts'
import { pinnedNode, windowNode } from './graph.ts'
import { guardVmdk } from './guard-vmdk.ts'
import { type GuardedImage, pad512, refused, type SourceFormat } from './guarded.ts'
import type { ImageWindow } from './window.ts'

export interface GuardLimits {
  /** bytes; 64 TiB unless configured */
  maxVirtualSize: number
  /** ends the walk through the tables of a large image */
  signal?: AbortSignal
}

/**
 * Reads the header of an untrusted image and refuses whatever would make a tool read another file or claims an absurd size. MUST
 * run before any tool opens the image.
 * @throws {ImageError} with a code of the format's or of the guard's
 */
export async function guardImage(w: ImageWindow, format: SourceFormat, limits: GuardLimits): Promise<GuardedImage> {
  if (w.size === 0) throw refused(w, 'empty', 'is empty (0 bytes)', 'Export the disk again.')
  try {
    const image = await guardFormat(w, format)
    if (image.virtual_size > limits.maxVirtualSize) {
      throw refused(
        w,
        'virtual-size',
        `claims a virtual size of ${image.virtual_size} bytes; at most ${limits.maxVirtualSize} are accepted`,
        'If the disk really is that large, raise convert.max_virtual_size in the configuration.',
      )
    }
    if (image.virtual_size === 0)
      throw refused(w, 'virtual-size', 'states a virtual size of 0 bytes', 'Export the disk again.')
    await image.bounds(limits.signal)
    return image
  } catch (e) {
    if (!(e instanceof FormatError)) throw e
    const looks = await detectFormat(w.source)
    const other = looks !== undefined && looks !== format ? ` It looks like ${article(looks)} file.` : ''
    throw new ImageError(`The ${format} image ${q(w.label)} was refused: ${e.message}${other}`, {
      code: e.code,
      hint:
        other && e.code.startsWith('not-')
          ? `Set source_format to what the file is (vmdk, qcow2, raw, vhd, vhdx, vdi, ova or ovf).`
          : 'Check that the file is complete and undamaged, and export it again if not.',
      cause: e,
    })
  }
}

async function guardFormat(w: ImageWindow, format: SourceFormat): Promise<GuardedImage> {
  switch (format) {
    case 'vmdk':
      return guardVmdk(w)
    case 'qcow2':
      return guardQcow2(w)
    case 'raw':
      return plain(w, 'raw', w.size, {})
    case 'vhd': {
      const h = await parseVhd(w.source)
      if (h.type === 'differencing') {
        throw refused(
          w,
          'has-parent',
          `is a differencing VHD: it holds only the changes to ${q(h.parent ?? 'another file')}`,
          'Merge it with its parent and export again.',
        )
      }
      // qemu goes by the geometry unless it knows the creator, which cuts the end off disks of others; Virtual PC and qemu itself mean the geometry
      const chs = ['vpc ', 'vs  ', 'qemu'].includes(h.creator) && h.chs_size < 65535 * 16 * 255 * 512
      return plain(w, 'vhd', chs ? h.chs_size : h.current_size, chs ? {} : { force_size_calc: 'current_size' }, h.type)
    }
    case 'vhdx': {
      const h = await parseVhdx(w.source)
      if (h.has_parent)
        throw refused(
          w,
          'has-parent',
          'is a differencing VHDX: it holds only the changes to another file',
          'Merge the checkpoints and export again.',
        )
      if (h.log_pending) {
        throw refused(
          w,
          'not-clean',
          'was not closed cleanly: its log holds writes that are not yet in place',
          'Open and close it once with its hypervisor, or run "qemu-img check -r all" on a copy.',
        )
      }
      return plain(w, 'vhdx', h.virtual_size, {}, undefined, (signal) => checkVhdxBounds(w.source, h, signal))
    }
    case 'vdi': {
      const h = await parseVdi(w.source)
      if (h.has_parent)
        throw refused(
          w,
          'has-parent',
          'is a differencing VDI: it holds only the changes to another file',
          'Merge the snapshots (VBoxManage clonemedium) and export again.',
        )
      return plain(w, 'vdi', h.virtual_size, {}, h.type)
    }
  }
}

async function guardQcow2(w: ImageWindow): Promise<GuardedImage> {
  const first = await parseQcow2(w.source)
  // from here on only what was read here counts: the same bytes are checked and handed to qemu
  const pinned = pad512(await w.source.read(0, first.name_area_bytes))
  const h = await parseQcow2({
    size: w.size,
    read: async (at, n) => (at < pinned.length ? pinned.subarray(at, at + n) : w.source.read(at, n)),
  })
  if (h.cluster_size !== first.cluster_size)
    throw refused(w, 'changed', 'changed while it was read', 'Wait until nobody writes to the file.')
  if (h.backing_file !== undefined) {
    throw refused(
      w,
      'has-backing-file',
      `has the backing file ${q(h.backing_file)}, so it holds only the changes to another file`,
      'Flatten it first: qemu-img convert -O qcow2 IMAGE FLAT.',
    )
  }
  if (h.external_data || h.data_file !== undefined) {
    throw refused(
      w,
      'has-data-file',
      `keeps its data in another file (${q(h.data_file ?? 'no name given')})`,
      'Convert that data file instead, or flatten the image first.',
    )
  }
  if (h.crypt_method !== 0) throw refused(w, 'encrypted', 'is encrypted', 'Decrypt it first.')
  if (h.corrupt)
    throw refused(w, 'corrupt', 'is marked as corrupt', 'Repair a copy with "qemu-img check -r all" first.')
  return {
    format: 'qcow2',
    virtual_size: h.virtual_size,
    windows: [w],
    warnings:
      h.snapshots > 0
        ? [`The image ${q(w.label)} holds ${h.snapshots} internal snapshot(s); only its current state is converted.`]
        : [],
    bounds: (signal) => checkQcow2Bounds(w.source, h, signal),
    node: async (b) => ({
      driver: 'qcow2',
      file: (await pinnedNode(b, { fd: w.file.handle.fd, offset: w.offset, size: w.size, pinned })).node,
    }),
  }
}

function plain(
  w: ImageWindow,
  format: SourceFormat,
  size: number,
  options: Record<string, unknown>,
  subformat?: string,
  bounds: GuardedImage['bounds'] = async () => undefined,
): GuardedImage {
  return {
    format,
    ...(subformat === undefined ? {} : { subformat }),
    virtual_size: size,
    windows: [w],
    warnings: [],
    bounds,
    node: async (b) => ({
      driver: format === 'vhd' ? 'vpc' : format,
      ...options,
      file: windowNode(b, { fd: w.file.handle.fd, offset: w.offset, size: w.size, whole: w.whole }),
    }),
  }
}

function article(format: string): string {
  return `${/^[aeiou]/.test(format) ? 'an' : 'a'} ${format}`
}

function q(s: string): string {
  return JSON.stringify(s)
}
