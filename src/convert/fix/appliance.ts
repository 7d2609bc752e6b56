/** The private surroundings in which the tools of libguestfs run: folders, kernel, accelerator, no network. */
import { lstat, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { identify, isAlive, isLocal, type ProcessIdentity } from '../../process/index.ts'
import { applianceKernel, findProgram, printed } from './programs.ts'
import type { GuestToolSettings } from './types.ts'

export interface Appliance {
  env: Record<string, string | undefined>
  /** what stands before each command: the guest's own programs run in the appliance, and must reach no network of ours */
  prefix: readonly string[]
  accelerator: 'kvm' | 'tcg'
  close(): Promise<void>
}

const PREFIX = 'vmspool-fix-'
const NOTE = 'owner.json'

/** In each private folder: whose it is, so that it can be removed when that process was killed. */
interface Note {
  owner: ProcessIdentity
  /** where the logs of the tools lie */
  logs: string
}

/**
 * Makes the folders: sockets have at most 107 bytes of path, and an attempt's folder is longer than that, so they lie in the host's folder for
 * temporary files. What killed processes left there is removed first. @throws {NotPossible} when the appliance cannot be built here
 */
export async function openAppliance(s: GuestToolSettings, logs: string): Promise<Appliance> {
  const kernel = await applianceKernel(s)
  const parent = s.tmp_dir ?? process.env.TMPDIR ?? '/var/tmp'
  await sweep(parent)
  const dir = await mkdtemp(join(parent, PREFIX))
  const note: Note = { owner: identify(process.pid)!, logs }
  await writeFile(join(dir, NOTE), JSON.stringify(note))
  const tmp = join(dir, 'tmp')
  const cache = join(dir, 'cache')
  await mkdir(tmp)
  await mkdir(cache)
  const accelerator = await chooseAccelerator(s.accelerator)
  return {
    accelerator,
    prefix: (await canUnshare()) ? ['unshare', '--net', '--'] : [],
    env: {
      LC_ALL: 'C.UTF-8',
      LIBGUESTFS_BACKEND: 'direct',
      LIBGUESTFS_BACKEND_SETTINGS: accelerator === 'tcg' ? 'force_tcg' : undefined,
      LIBGUESTFS_CACHEDIR: cache,
      LIBGUESTFS_TMPDIR: tmp,
      LIBGUESTFS_DEBUG: undefined,
      LIBGUESTFS_TRACE: undefined,
      VIRT_V2V_TMPDIR: tmp,
      TMPDIR: tmp,
      XDG_RUNTIME_DIR: tmp,
      LIBGUESTFS_PATH: process.env.LIBGUESTFS_PATH,
      ...kernel,
    },
    async close() {
      await rm(dir, { recursive: true, force: true })
    },
  }
}

/**
 * Removes folders of processes of this host that are gone, with the sockets that their tools' logs name. A folder without a note is so young
 * that its maker has not written it yet, or not ours.
 */
export async function sweep(parent: string): Promise<void> {
  for (const name of await readdir(parent)) {
    if (!name.startsWith(PREFIX)) continue
    const dir = join(parent, name)
    const mine = (await lstat(dir).catch(() => undefined))?.uid === process.geteuid?.()
    const note = mine ? await readNote(dir) : undefined
    if (!note || !isLocal(note.owner) || isAlive(note.owner)) continue
    for (const f of await readdir(note.logs).catch(() => [] as string[]))
      if (f.endsWith('.log')) await clearSockets(join(note.logs, f))
    await rm(dir, { recursive: true, force: true })
  }
}

async function readNote(dir: string): Promise<Note | undefined> {
  try {
    const note = JSON.parse(await readFile(join(dir, NOTE), 'utf8')) as Partial<Note>
    return note.owner && typeof note.logs === 'string' ? (note as Note) : undefined
  } catch {
    return undefined
  }
}

/** Folders `/tmp/libguestfsXXXXXX` that a log names: their owner has ended. */
export async function clearSockets(log: string): Promise<void> {
  const text = await readFile(log, 'latin1').catch(() => '')
  const found = new Set(text.match(/\/tmp\/libguestfs[A-Za-z0-9]{6}(?=\/guestfsd\.sock)/g) ?? [])
  for (const dir of found) if (dirname(dir) === '/tmp') await rm(dir, { recursive: true, force: true })
}

/**
 * libguestfs falls back from KVM only where /dev/kvm cannot be opened. Where it can and virtual CPUs do not start (seen inside VMs, as an
 * assertion of QEMU), the appliance dies; so a machine with the same CPU model is started first.
 */
export async function chooseAccelerator(want: GuestToolSettings['accelerator']): Promise<'kvm' | 'tcg'> {
  if (want !== 'auto') return want
  const program =
    (await findProgram(process.arch === 'arm64' ? 'qemu-system-aarch64' : 'qemu-system-x86_64')) ??
    (await findProgram('qemu-kvm')) ??
    '/usr/libexec/qemu-kvm'
  const machine = process.arch === 'arm64' ? 'virt,accel=kvm' : 'accel=kvm'
  const args = [
    '-machine',
    machine,
    '-cpu',
    'max',
    '-nodefaults',
    '-no-user-config',
    '-display',
    'none',
    '-qmp',
    'stdio',
  ]
  const said = await printed([program, ...args], '{"execute":"qmp_capabilities"}\n{"execute":"quit"}\n')
  return said?.includes('"QMP"') ? 'kvm' : 'tcg'
}

let unshare: Promise<boolean> | undefined
function canUnshare(): Promise<boolean> {
  unshare ??= printed(['unshare', '--net', '--', 'true']).then((t) => t !== undefined)
  return unshare
}
