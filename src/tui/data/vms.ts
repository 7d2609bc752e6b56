/**
 * The VMs of the registry, and the disks in output/ by the name of their answer. Listing the folder says which disks there are; sizes are
 * read for what is on the screen.
 */
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Place } from '../../client/place.ts'
import { type JobStatus, statusOf, statusOfName } from '../../client/status.ts'
import { type VmView, vmDirOf, vmsOf } from '../../client/vms.ts'

export interface Vm {
  name: string
  /** formats of the images, the wanted one first */
  formats: string[]
  /** the boot disk and those in <name>.disks/ */
  disks: number
  /** has a folder of hard links below vms/ */
  linked: boolean
  /** what runs on libvirt under that name; undefined: there are only disks */
  real?: VmView
}

export interface VmDetail {
  /** bytes on the disk, of all its images */
  size: number
  job?: JobStatus
}

const image = /^(.+)\.(qcow2|raw|vdi|vmdk|vhdx|vpc|qed)$/

/**
 * All VMs, by name. The small qcow2 that stands for a raw image is not one of its formats.
 * @param live ask libvirt, too: its answer takes as long as it takes
 */
export async function vmsIn(place: Place, live = false): Promise<Vm[]> {
  const found = new Map<string, Vm>()
  const vm = (name: string): Vm => {
    const known = found.get(name)
    if (known) return known
    const made = { name, formats: [], disks: 0, linked: false }
    found.set(name, made)
    return made
  }
  for (const e of await readdir(place.layout.output, { withFileTypes: true })) {
    if (e.name.startsWith('.')) continue
    const m = image.exec(e.name)
    if (m && !e.isDirectory()) vm(m[1]!).formats.push(m[2]!)
    else if (e.isDirectory() && e.name.endsWith('.disks')) {
      const others = await readdir(join(place.layout.output, e.name)).catch(() => [])
      vm(e.name.slice(0, -'.disks'.length)).disks += others.filter((f) => image.test(f)).length
    }
  }
  const real = await vmsOf(place, { live }).catch(() => ({ vms: [] as VmView[] }))
  for (const v of real.vms) {
    const known = vm(v.name)
    // hosts that share a spool may each have one of a name
    vm(known.real === undefined ? v.name : `${v.name}@${v.host}`).real = v
  }
  for (const e of await readdir(place.layout.vms, { withFileTypes: true }).catch(() => [])) {
    // beside the folders there are the registry, its lock and what was thrown away
    if (e.isDirectory() && !e.name.startsWith('.') && !e.name.endsWith('.lock')) vm(e.name).linked = true
  }
  for (const v of found.values()) {
    if (v.formats.length > 0) v.disks += 1
    if (v.formats.includes('raw')) v.formats = v.formats.filter((f) => f !== 'qcow2')
    v.formats.sort()
  }
  return [...found.values()].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))
}

/** @returns what takes a few reads; a VM whose files went away meanwhile has the size of what is left */
export async function vmDetail(place: Place, vm: Vm): Promise<VmDetail> {
  const { output, vms } = place.layout
  const disks = join(output, `${vm.name}.disks`)
  const own = join(vms, vm.name)
  const files = [
    ...(vm.real?.disks ?? []).flatMap((d) => (d.base ? [d.path, d.base.path] : [d.path])),
    ...vm.formats.map((f) => join(output, `${vm.name}.${f}`)),
    ...(await readdir(disks).catch(() => [])).map((f) => join(disks, f)),
    ...(vm.linked ? (await readdir(own).catch(() => [])).filter((f) => image.test(f)).map((f) => join(own, f)) : []),
  ]
  const inodes = new Map<string, number>()
  for (const file of files) {
    const s = await stat(file).catch(() => undefined)
    if (s?.isFile()) inodes.set(`${s.dev}:${s.ino}`, s.blocks * 512)
  }
  const job = await lastJob(place, vm).catch(() => undefined)
  return { size: [...inodes.values()].reduce((a, b) => a + b, 0), ...(job ? { job } : {}) }
}

/** Of a VM the job that works on it or did so last, else the conversion of that name. */
async function lastJob(place: Place, vm: Vm): Promise<JobStatus | undefined> {
  const id = vm.real?.doing?.job ?? vm.real?.order?.job
  return (id === undefined ? undefined : await statusOf(place, id)) ?? statusOfName(place, vm.name)
}

/** The folders in which a change means another list. */
export const vmFolders = (place: Place): string[] => [
  ...new Set([place.layout.output, place.layout.vms, vmDirOf(place)]),
]
