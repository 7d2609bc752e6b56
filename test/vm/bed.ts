// The real service on a libvirtd of our own: a folder for VMs, and what a job would hear of its action.
import { mkdirSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { expect } from 'vitest'
import { type Config, loadConfig } from '../../src/config/index.ts'
import { openVms, type Vms, VmError, type VmHooks, type VmSpec } from '../../src/vm/index.ts'
import { type Libvirtd, privateLibvirtd } from '../support/libvirtd.ts'
import { type TempDir, tempDir } from '../support/temp.ts'

const MIB = 2 ** 20

export interface Bed extends AsyncDisposable {
  libvirtd: Libvirtd
  uri: string
  virsh(...args: string[]): Promise<string>
  /** a service of its own, below a folder of its own */
  room(o?: RoomOptions): Promise<Room>
}

export interface RoomOptions {
  instance?: string
  /** another service on the same VMs, as another process would have */
  of?: Room
  config?: (c: Config) => void
  uri?: string
}

export interface Room extends AsyncDisposable {
  vms: Vms
  instance: string
  config: Config
  /** of the VMs */
  dir: string
  temp: TempDir
  /** what there is of a VM anywhere */
  traces(name: string): Promise<{ domain: boolean; files: string[]; entry: boolean; promises: number }>
}

/** One daemon for all tests of a file: the first start of QEMU by a daemon takes seconds. */
export async function vmBed(): Promise<Bed> {
  const libvirtd = await privateLibvirtd()
  const uri = libvirtd.uri('qemu:///system')
  return {
    libvirtd,
    uri,
    virsh: (...args) => libvirtd.virsh(uri, ...args),
    room: (o = {}) => openRoom(libvirtd, { uri, ...o }),
    [Symbol.asyncDispose]: () => libvirtd[Symbol.asyncDispose](),
  }
}

let rooms = 0

async function openRoom(libvirtd: Libvirtd, o: RoomOptions & { uri: string }): Promise<Room> {
  const temp = o.of?.temp ?? (await tempDir())
  const instance = o.of?.instance ?? o.instance ?? `i${++rooms}`
  const { config: read } = loadConfig({ instance, root: temp.path, env: { HOME: temp.path, PATH: process.env.PATH } })
  const config = structuredClone(read) as Config
  config.libvirt.uri = o.uri
  config.vm.accelerator = 'qemu'
  config.vm.limits.min_memory = 16 * MIB
  config.vm.limits.min_disk = MIB
  config.vm.reserved.memory = 0
  config.vm.reserved.disk = 0
  config.vm.cpu_overcommit = 100
  o.config?.(config)
  const dir = join(temp.path, 'vms')
  const runtimeDir = join(temp.path, 'run')
  const promisesDir = join(temp.path, 'promises')
  mkdirSync(promisesDir, { recursive: true })
  const quiet = { info: () => {}, warn: () => {}, error: () => {} }
  const vms = await openVms({ instance, host: 'here', dir, runtimeDir, promisesDir, config: () => config, log: quiet })
  return {
    vms,
    instance,
    config,
    dir,
    temp,
    async traces(name) {
      const domains = (await libvirtd.virsh(o.uri, 'list', '--all', '--name')).split('\n')
      return {
        domain: domains.includes(name),
        files: await readdir(join(dir, name)).catch(() => []),
        entry: (await vms.registry.get(name)) !== undefined,
        promises: (await readdir(promisesDir)).length,
      }
    },
    async [Symbol.asyncDispose]() {
      await vms[Symbol.asyncDispose]()
      if (!o.of) await temp[Symbol.asyncDispose]()
    },
  }
}

/** Nothing at all. */
export const GONE = { domain: false, files: [], entry: false, promises: 0 }

export interface Heard extends VmHooks {
  phases: string[]
  messages: string[]
  said: string
}

/** Hooks that remember; `before` may do something just before something is changed, once in each phase. */
export function hear(
  o: { signal?: AbortSignal; onPhase?: (phase: string) => void; before?: (phase: string) => Promise<void> } = {},
): Heard {
  const done = new Set<string>()
  const heard: Heard = {
    phases: [],
    messages: [],
    said: '',
    signal: o.signal ?? new AbortController().signal,
    progress(p) {
      if (p.message !== undefined) heard.messages.push(p.message)
      if (heard.phases.at(-1) === p.phase) return
      heard.phases.push(p.phase)
      o.onPhase?.(p.phase)
    },
    log: (_stream, text) => {
      heard.said += text
    },
    spawned: () => {},
    async owned() {
      const phase = heard.phases.at(-1)!
      if (!done.has(phase)) {
        done.add(phase)
        await o.before?.(phase)
      }
      return true
    },
  }
  return heard
}

let jobs = 0
/** A job that nobody else has. */
export const order = (epoch = 1) => ({ job: `01JOB${String(++jobs).padStart(21, '0')}`, epoch })

export interface SpecWords extends Partial<Omit<VmSpec, 'boot'>> {
  /** a file to boot from */
  image: string
}

/** A small VM without a network. */
export function spec(name: string, { image, ...o }: SpecWords): VmSpec {
  return {
    name,
    boot: { from: 'image', file: { path: image, format: 'raw', import_roots: ['/'] } },
    copy: 'full',
    disks: [],
    vcpus: 1,
    memory_bytes: 32 * MIB,
    firmware: 'bios',
    secure_boot: false,
    machine: 'q35',
    accelerator: 'qemu',
    nics: [],
    autostart: false,
    start: true,
    address_timeout_ms: 0,
    metadata: {},
    ...o,
  }
}

/** A disk without an operating system: its guest says "no bootable device" and stays up. */
export async function blankDisk(path: string, mib = 4): Promise<string> {
  await execa('truncate', ['-s', `${mib}M`, path])
  return path
}

export async function failure(work: Promise<unknown>): Promise<VmError> {
  const e = await work.then(
    (value) => ({ value }),
    (error: unknown) => error,
  )
  expect(e).toBeInstanceOf(VmError)
  return e as VmError
}
