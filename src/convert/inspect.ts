import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import {
  CLUSTER as GRAIN,
  checkSubmitter,
  type GrainMap,
  type GuardedImage,
  grainsProblem,
  graphBuilder,
  guardImage,
  ImageError,
  type ImageInfo,
  type ImageWindow,
  imageInfo,
  mapGrains,
  measure,
  type OpenedFile,
  openBeneath,
  type Ovf,
  type SourceFormat,
  wholeFile,
} from '../images/index.ts'
import { expandArchive, type FoundDisk } from './archive.ts'
import type { ConvertHooks, ConvertPlan, PlannedDisk } from './types.ts'
import { isPacked, UNPACK_FOLDER, unpack } from './unpack.ts'

/** One disk that will be made, with its source open and checked. */
export interface SourceDisk {
  id: string
  planned: PlannedDisk
  image: GuardedImage
  info: ImageInfo
  /** the grains of a streamOptimized VMDK that the fast paths can take */
  map?: GrainMap
  /** bytes that the output is expected to take */
  estimate: number
  boot: boolean
  boot_order_hint: number
  /** checksums that an archive's own manifest gives for this disk's bytes */
  digest?: { algorithm: string; hex: string; name: string }
  capacity_mismatch?: string
}

/** One entry of the plan, open. */
export interface OpenedDisk {
  planned: PlannedDisk
  window: ImageWindow
  disks: SourceDisk[]
  /** of an OVA or OVF */
  ovf?: Ovf
}

export interface Inspected {
  opened: OpenedDisk[]
  disks: SourceDisk[]
  warnings: string[]
  close(): Promise<void>
}

/** What a file without a hint sorts as. Source: Artifact Manifest 1.0. */
const NO_HINT = 999

/** Opens every source, checks it and estimates its output. Everything stays open for the copy. */
export async function inspectSources(plan: ConvertPlan, hooks: ConvertHooks): Promise<Inspected> {
  const files: OpenedFile[] = []
  const warnings: string[] = []
  const opened: OpenedDisk[] = []
  const close = async (): Promise<void> => {
    await Promise.allSettled(files.map((f) => f.close()))
  }
  const admit = async (f: OpenedFile): Promise<void> => {
    files.push(f)
    if (!plan.submitter) return
    const payload = plan.payload_dir !== undefined && f.path.startsWith(`${plan.payload_dir}/`)
    await checkSubmitter(payload ? { ...f, folders: [] } : f, plan.submitter)
  }
  try {
    const ids = new Set<string>(plan.disks.map((d) => d.id))
    for (const [index, planned] of plan.disks.entries()) {
      hooks.signal.throwIfAborted()
      const payload = plan.payload_dir !== undefined && planned.path.startsWith(`${plan.payload_dir}/`)
      const file = await openBeneath(planned.path, payload ? [plan.payload_dir!] : plan.import_roots)
      await admit(file)
      const window = wholeFile(file, admit)
      const ready = (w: ImageWindow, name: string): Promise<ImageWindow> =>
        unpack(w, name, plan, hooks, (f) => files.push(f))
      if (planned.bytes && planned.bytes !== window.size) {
        warnings.push(`Size mismatch (expected ${planned.bytes}, got ${window.size}) for disk "${planned.id}".`)
      }
      const format = planned.source_format
      const opens =
        format !== 'ovf' && (await isPacked(window, format)) ? await ready(window, `${index}.${format}`) : window
      const expanded =
        format === 'ova' || format === 'ovf' ? await expandArchive(opens, format, planned.id, warnings) : undefined
      const found: FoundDisk[] = expanded?.disks ?? [{ id: planned.id, format: format as SourceFormat, window: opens }]
      const disks: SourceDisk[] = []
      for (const [n, f] of found.entries()) {
        const boot = index === plan.boot && n === 0
        const id = n === 0 && found.length === 1 ? planned.id : unique(f.id, ids)
        const w = f.packed ? await ready(f.window, `${index}-${n}.${f.format}`) : f.window
        disks.push(await inspectDisk(plan, hooks, planned, { ...f, id, window: w }, boot, warnings))
      }
      opened.push({ planned, window, disks, ...(expanded ? { ovf: expanded.ovf } : {}) })
    }
    return { opened, disks: opened.flatMap((o) => o.disks), warnings, close }
  } catch (e) {
    await close()
    // what was unpacked is of no use to a retry when it is refused
    if (e instanceof ImageError && !e.transient)
      await rm(join(plan.scratch, UNPACK_FOLDER), { recursive: true, force: true })
    throw e
  }
}

async function inspectDisk(
  plan: ConvertPlan,
  hooks: ConvertHooks,
  planned: PlannedDisk,
  f: FoundDisk,
  boot: boolean,
  warnings: string[],
): Promise<SourceDisk> {
  const image = await guardImage(f.window, f.format, { maxVirtualSize: plan.max_virtual_size, signal: hooks.signal })
  warnings.push(...image.warnings)
  const builder = graphBuilder(plan.scratch)
  try {
    const graph = { node: await image.node(builder), fds: builder.fds() }
    const info = await imageInfo(graph, hooks)
    if (info.virtual_size > plan.max_virtual_size) {
      throw new ImageError(
        `The image ${JSON.stringify(f.window.label)} has a virtual size of ${info.virtual_size} bytes; at most ${plan.max_virtual_size} are accepted.`,
        { code: 'virtual-size' },
      )
    }
    // qemu rounds up to sectors, and to geometry where a VHD has nothing else; more than a cylinder apart we read different headers
    if (Math.abs(info.virtual_size - image.virtual_size) > 16 * 255 * 512) {
      throw new ImageError(
        `qemu-img reads a virtual size of ${info.virtual_size} bytes from ${JSON.stringify(f.window.label)}, its header states ${image.virtual_size}.`,
        {
          code: 'size-disagreement',
          hint: 'The file is damaged or made to deceive; export the disk again.',
        },
      )
    }
    if (f.capacity !== undefined && f.capacity !== info.virtual_size) {
      warnings.push(
        `The OVF states a capacity of ${f.capacity} bytes for disk "${f.id}", the image has ${info.virtual_size}.`,
      )
    }
    // where every grain is counted anyway, qemu-img need not ask for each in turn (a minute for 3 TiB)
    const map = await grainsOf(image, hooks.signal)
    const plain = map
      ? Math.ceil(map.total * GRAIN * 1.01) + 2 ** 20
      : await measure(graph, plan.output.format === 'raw' ? 'raw' : 'qcow2', hooks)
    return {
      id: f.id,
      planned,
      image,
      info,
      ...(map ? { map } : {}),
      estimate: estimateBytes(plan, image, plain),
      boot,
      boot_order_hint: planned.boot_order_hint ?? NO_HINT,
      ...(f.digest ? { digest: f.digest } : {}),
    }
  } finally {
    await builder.close()
  }
}

async function grainsOf(image: GuardedImage, signal: AbortSignal): Promise<GrainMap | undefined> {
  if (!image.sparse || grainsProblem(image.sparse) !== undefined) return undefined
  return mapGrains(image.windows[0]!.source, image.sparse, signal)
}

/**
 * Bytes that an output is likely to take. How well data compresses is not known beforehand: an image that is compressed already keeps its
 * size, for others half is taken; a disk that turns out fuller is caught by the watch on free space.
 */
function estimateBytes(plan: ConvertPlan, image: GuardedImage, plain: number): number {
  const stored = image.windows.reduce((n, w) => n + Math.min(w.size, w.whole ? w.file.stat.blocks * 512 : w.size), 0)
  let bytes = plain
  if (plan.output.compress && plan.output.format === 'qcow2') {
    bytes = image.subformat === 'streamOptimized' ? Math.min(plain, Math.ceil(stored * 1.1)) : Math.ceil(plain / 2)
  } else if (plan.output.format === 'raw') {
    // measure says the whole disk, but holes stay holes: what counts is the data, which is at most what the source stores unless that is compressed
    bytes =
      image.subformat === 'streamOptimized' || image.format === 'qcow2'
        ? Math.min(plain, stored * 4)
        : Math.min(plain, stored)
  }
  return plan.output.format === 'vdi' && plan.output.poll_name ? bytes * 2 : bytes
}

function unique(id: string, taken: Set<string>): string {
  let name = id
  for (let n = 2; taken.has(name); n++) name = `${id}-${n}`
  taken.add(name)
  return name
}
