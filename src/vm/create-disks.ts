/** The disks of a new VM: which there will be and how large, and then the files. */
import { rename, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Submitter } from '../images/index.ts'
import { keptFrom, letRead } from './access.ts'
import type { Action } from './action.ts'
import { exists } from './disk-files.ts'
import { type DiskSource, linkWhole, lookAtSource, makeCopy, makeEmpty, makeOverlay, type OwnImage } from './disks.ts'
import type { CachedImage } from './images/index.ts'
import { VmError, type VmDisk, type VmSpec } from './types.ts'

/** One disk that is to be. */
export interface PlannedDisk {
  id: string
  path: string
  format: 'qcow2' | 'raw'
  /** what the guest is to see; absent: as much as what it is made from holds */
  size_bytes?: number
  /** absent: it is empty */
  from?: { template: string } | DiskSource
  /** where what a thin disk lies on is put, in the same folder */
  base?: string
}

/** Of a template's disk when nobody says how large it is to be. */
const TEMPLATE_DISK_BYTES = 50 * 2 ** 30

/** The disks of a spec in their order, the one that boots first. */
export function planDisks(spec: VmSpec, folder: string): PlannedDisk[] {
  const at = (file: string): string => join(folder, file)
  const boot = bootDisks(spec)
  const named = boot.map(({ id, from }, i): PlannedDisk => {
    const size = i === 0 ? spec.disk_bytes : undefined
    const thin = spec.copy === 'overlay'
    return {
      id,
      path: at(`${id}.qcow2`),
      format: 'qcow2',
      ...(size === undefined ? {} : { size_bytes: size }),
      from,
      ...(thin ? { base: at(i === 0 ? 'base' : `${id}.base`) } : {}),
    }
  })
  const taken = new Set(named.map((d) => d.id))
  let number = 0
  const more = spec.disks.map((d): PlannedDisk => {
    let id: string
    do id = `data${++number}`
    while (taken.has(id))
    return {
      id,
      path: at(`${id}.${d.format}`),
      format: d.format,
      ...(d.size_bytes === undefined ? {} : { size_bytes: d.size_bytes }),
      ...(d.file ? { from: d.file } : {}),
    }
  })
  return [...named, ...more]
}

function bootDisks(spec: VmSpec): { id: string; from: NonNullable<PlannedDisk['from']> }[] {
  const { boot } = spec
  if (boot.from === 'template') return [{ id: 'disk', from: { template: boot.template } }]
  if (boot.from === 'image') return [{ id: 'disk', from: boot.file }]
  return boot.disks.map((d, i) => ({ id: i === 0 ? 'disk' : d.id, from: { path: d.path, format: d.format } }))
}

/**
 * What the disks will hold when they are full. Files are looked at, so that one that is missing or no image is told before anything is made.
 * @throws VmError vm-invalid, image-not-found, image-invalid
 */
export async function sizeDisks(a: Action, plan: PlannedDisk[]): Promise<PlannedDisk[]> {
  const sized: PlannedDisk[] = []
  for (const d of plan) {
    if (d.from === undefined) {
      sized.push(d)
    } else if ('template' in d.from) {
      sized.push({ ...d, size_bytes: d.size_bytes ?? TEMPLATE_DISK_BYTES })
    } else {
      const { size_bytes, format } = await lookAtSource(d.from, { signal: a.hooks.signal })
      sized.push({ ...d, size_bytes: d.size_bytes ?? size_bytes, from: { ...d.from, format } })
    }
  }
  return sized
}

/** A template may be larger than what it gets when nobody says how large its disk is to be. */
export function fitTemplate(plan: readonly PlannedDisk[], spec: VmSpec, image: CachedImage): PlannedDisk[] {
  return plan.map((d) =>
    d.from && 'template' in d.from && spec.disk_bytes === undefined
      ? { ...d, size_bytes: Math.max(TEMPLATE_DISK_BYTES, image.virtual_size_bytes) }
      : d,
  )
}

/** Makes the files that are not there yet. @returns the disks as the registry keeps them */
export async function makeDisks(
  a: Action,
  plan: readonly PlannedDisk[],
  o: { image?: CachedImage; hypervisor?: Submitter },
): Promise<VmDisk[]> {
  const disks: VmDisk[] = []
  for (const [i, d] of plan.entries()) {
    await a.fence()
    if (plan.length > 1) a.say(`disk ${i + 1} of ${plan.length}`)
    disks.push(await makeDisk(a, d, o))
  }
  return disks
}

async function makeDisk(a: Action, d: PlannedDisk, o: Parameters<typeof makeDisks>[2]): Promise<VmDisk> {
  const { hooks } = a
  const { id, path, format } = d
  const size = d.size_bytes === undefined ? {} : { size_bytes: d.size_bytes }
  if (d.from === undefined) {
    return { id, path, format, size_bytes: await makeEmpty({ path, format, size_bytes: d.size_bytes!, hooks }) }
  }
  const source: DiskSource = 'template' in d.from ? own(o.image) : d.from
  if (d.base === undefined) {
    return { id, path, format, size_bytes: await makeCopy({ from: source, path, format, ...size, hooks }) }
  }
  const base = await makeBase(a, d, source, o.image)
  if (o.hypervisor) await openToHypervisor(a, base, o.hypervisor)
  return { id, path, format: 'qcow2', size_bytes: await makeOverlay({ base, path, ...size, hooks }), base }
}

/** What a thin disk lies on, under a name of the VM's own. A file of somebody's is copied: its owner could write to a link of it. */
async function makeBase(
  a: Action,
  d: PlannedDisk,
  source: DiskSource,
  image: CachedImage | undefined,
): Promise<OwnImage> {
  const { hooks } = a
  const format = source.format ?? 'raw'
  const path = `${d.base!}.${format}`
  // an earlier attempt made both; the template may be another one by now
  if ((await exists(path)) && (await exists(d.path))) return { path, format }
  if ('template' in d.from!) {
    await a.parts.images.link(own(image), path, {
      replace: true,
      signal: hooks.signal,
      spawned: hooks.spawned,
      log: (text) => hooks.log('agent', `${text}\n`),
      progress: (done, total) =>
        a.say('copies the image', { bytes_done: done, ...(total === undefined ? {} : { bytes_total: total }) }),
    })
  } else if ('import_roots' in source) await makeCopy({ from: source, path, format, hooks })
  else {
    await linkWhole(source.path, path, hooks).catch((e: NodeJS.ErrnoException) => {
      if (e.code !== 'ENOENT') throw e
      throw new VmError(`The disk ${JSON.stringify(source.path)} is gone, which the VM "${a.name}" was to run on.`, {
        code: 'image-not-found',
        transient: true,
        hint: "Its job's answer was moved or removed meanwhile; the job is tried again, and looks for it anew.",
      })
    })
  }
  return { path, format }
}

/** A file that is shared keeps its owner and its mode; where they shut the hypervisor out, an access list or a copy lets him in. */
async function openToHypervisor(a: Action, base: OwnImage, hypervisor: Submitter): Promise<void> {
  const { path, format } = base
  if ((await stat(path)).nlink < 2 || (await keptFrom(path, hypervisor)) !== 'file') return
  if (await letRead(path, hypervisor, a.hooks)) return
  a.hooks.log('agent', `copies ${path}, which the hypervisor's user may not read where it comes from\n`)
  const copy = `${path}.own`
  await makeCopy({ from: base, path: copy, format, hooks: a.hooks })
  await rename(copy, path)
}

function own(image: CachedImage | undefined): CachedImage {
  if (!image) throw new TypeError('The template of the disk was not fetched.')
  return image
}
