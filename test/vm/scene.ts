// The real agent process beside a libvirtd of its own, with guests without an operating system: they start in a second and stay up.
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import type { VmRecord } from '../../src/vm/index.ts'
import { type Bed, bed } from '../support/agent.ts'
import { type Libvirtd, privateLibvirtd } from '../support/libvirtd.ts'
import { readJson } from '../support/results.ts'

const MIB = 2 ** 20

export interface Scene extends AsyncDisposable {
  bed: Bed
  libvirtd: Libvirtd
  uri: string
  /** a blank disk to boot from */
  image: string
  /** everything there is of a VM, wherever it may be */
  traces(name: string): Promise<Traces>
  record(name: string): Promise<VmRecord | undefined>
}

export interface Traces {
  /** libvirt's states of all domains of that name: at most one */
  domains: string[]
  /** QEMU processes that run under that name, whatever libvirt says */
  guests: number
  files: string[]
  entry: boolean
  /** libvirt's own files that name it: definition, log of a monitor, nvram */
  libvirt_files: string[]
}

/** one of libvirt's that {@link Scene.libvirtd} may be given: nobody on it asks for an address */
export const NETWORK = 'lan'

export const NOTHING: Traces = { domains: [], guests: 0, files: [], entry: false, libvirt_files: [] }

/** @param dir a private folder */
export async function scene(dir: string, o: { config?: object; libvirtd?: Libvirtd } = {}): Promise<Scene> {
  const libvirtd = o.libvirtd ?? (await privateLibvirtd())
  const uri = libvirtd.uri('qemu:///system')
  const image = join(dir, 'blank.raw')
  const b = await bed(dir, {
    libvirt: { uri },
    templates: { blank: { path: image, format: 'raw' } },
    vm: {
      accelerator: 'qemu',
      limits: { min_memory: 16 * MIB, min_disk: MIB },
      reserved: { memory: 0, disk: 0 },
      cpu_overcommit: 100,
      stop_grace: '2s',
    },
    retry: { delay: 1 },
    lease: { timeout: '2s' },
    ...o.config,
  })
  await execa('truncate', ['-s', '4M', image])
  const record = async (name: string): Promise<VmRecord | undefined> => {
    const file = await readJson<{ vms: Record<string, VmRecord> }>(join(b.layout.output, 'vms/vms.json'))
    return file?.vms[name]
  }
  return {
    bed: b,
    libvirtd,
    uri,
    image,
    record,
    async traces(name) {
      const list = (await libvirtd.virsh(uri, 'list', '--all')).split('\n').map((l) => l.trim().split(/\s+/))
      const guests = await libvirtd.inside(['sh', '-c', 'cat /proc/[0-9]*/cmdline | tr "\\0" " "'])
      const lib = await readdir(join(libvirtd.dir, 'etc/qemu'))
      return {
        domains: list.filter((l) => l[1] === name).map((l) => l.slice(2).join(' ')),
        guests: guests.split(`guest=${name},`).length - 1,
        files: await readdir(join(b.layout.output, 'vms', name)).catch(() => []),
        entry: (await record(name)) !== undefined,
        libvirt_files: lib.filter((f) => f === `${name}.xml`),
      }
    },
    async [Symbol.asyncDispose]() {
      await b[Symbol.asyncDispose]()
      if (!o.libvirtd) await libvirtd[Symbol.asyncDispose]()
    },
  }
}

/** A VM job as its users drop it: no network, so nothing is waited for. */
export const vmManifest = (s: Pick<Scene, 'image'>, name: string, action: string, more: object = {}): object => ({
  kind: 'vm',
  name,
  action,
  ...(action === 'create'
    ? { vm: { image: s.image, image_format: 'raw', vcpus: 1, memory: '32M', networks: [], cloud_init: false } }
    : {}),
  ...(action === 'stop' || action === 'restart' || action === 'delete' ? { force: true } : {}),
  ...more,
})
