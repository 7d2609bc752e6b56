/** The disks in output/, by the name of their answer. Listing the folder says which there are; sizes are read for what is on the screen. */
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Place } from '../../client/place.ts'
import { type JobStatus, statusOfName } from '../../client/status.ts'

export interface Vm {
  name: string
  /** formats of the images, the wanted one first */
  formats: string[]
  /** the boot disk and those in <name>.disks/ */
  disks: number
  /** has a folder of hard links below vms/ */
  linked: boolean
}

export interface VmDetail {
  /** bytes on the disk, of all its images */
  size: number
  job?: JobStatus
}

const image = /^(.+)\.(qcow2|raw|vdi|vmdk|vhdx|vpc|qed)$/

/** All VMs, by name. The small qcow2 that stands for a raw image is not one of its formats. */
export async function vmsIn(place: Place): Promise<Vm[]> {
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
  const links = await readdir(place.layout.vms).catch(() => [])
  for (const name of links) if (!name.startsWith('.')) vm(name).linked = true
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
    ...vm.formats.map((f) => join(output, `${vm.name}.${f}`)),
    ...(await readdir(disks).catch(() => [])).map((f) => join(disks, f)),
    ...(vm.linked ? (await readdir(own).catch(() => [])).filter((f) => image.test(f)).map((f) => join(own, f)) : []),
  ]
  const inodes = new Map<string, number>()
  for (const file of files) {
    const s = await stat(file).catch(() => undefined)
    if (s?.isFile()) inodes.set(`${s.dev}:${s.ino}`, s.blocks * 512)
  }
  const job = await statusOfName(place, vm.name).catch(() => undefined)
  return { size: [...inodes.values()].reduce((a, b) => a + b, 0), ...(job ? { job } : {}) }
}
