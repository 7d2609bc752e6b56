/** One opened spool: where it lies, the world it runs in (file system, clocks, chance), and who we are in it. */
import { closeSync, constants, openSync, readFileSync } from 'node:fs'
import { access, chown, mkdir, stat, statfs } from 'node:fs/promises'
import { dirname } from 'node:path'
import { errno, SpoolError } from './errors.ts'
import { nodeFs, type SpoolFs } from './fs.ts'
import type { Layout } from './layout.ts'
import { ulidMaker } from './names.ts'
import { isNetworkType } from '../process/network-fs.ts'
import { startCommand } from './start-command.ts'
import { groupSync } from './sync.ts'

export interface SpoolClock {
  /** wall clock, ms since 1970: for people and due times, never to judge another agent */
  now(): number
  /** monotonic clock, ms */
  mono(): number
}

export type SpoolLog = (event: string, fields: Record<string, unknown>) => void

export interface Spool {
  readonly layout: Layout
  readonly fs: SpoolFs
  readonly clock: SpoolClock
  readonly random: (bytes: number) => Uint8Array
  readonly log: SpoolLog
  /** fsync of a folder, shared with all who ask at the same time */
  readonly sync: (dir: string) => Promise<void>
  readonly newId: () => string
  /** a lease is dead when its counter did not change for this long, in ms on the observer's monotonic clock */
  readonly leaseMs: number
  readonly maxCrashes: number
  /** the output lies on a network file system: look by listing, never by name */
  readonly remote: boolean
  /** who we are, once startOwner() ran */
  owner?: Owner
  /** what we saw of other owners' leases */
  readonly observed: Map<string, { counter: number; since: number }>
  /** lane folders that are durable for sure, so that their parent needs no further fsync */
  readonly durableLanes: Set<string>
  /** manifests taken and not accepted yet, by take id: a hint, the folder is the truth */
  readonly intake: IntakeMemory
}

export interface Owner {
  id: string
  counter: number
  role: 'main' | 'worker'
  started_at: string
  /** start of this owner on the monotonic clock, in ms */
  since: number
  /** what the host has; goes into the lease with the next heartbeat */
  labels?: readonly string[]
}

export interface IntakeMemory {
  raw: Map<string, RawDrop>
  kept: Map<string, { path: string; folder: string; sha256: string; until: number; name: string }>
  bare: Map<string, { signature: string; since: number; complained?: string }>
  reported: Set<string>
  lastListed: number
}

export interface RawDrop {
  id: string
  folder: string
  file: string
  name: string
  signature: string
  since: number
}

function emptyIntake(): IntakeMemory {
  return { raw: new Map(), kept: new Map(), bare: new Map(), reported: new Set(), lastListed: Number.NEGATIVE_INFINITY }
}

export interface SpoolOptions {
  layout: Layout
  log?: SpoolLog
  fs?: SpoolFs
  /** put around the file system, the standard one too */
  around?: (fs: SpoolFs) => SpoolFs
  clock?: SpoolClock
  random?: (bytes: number) => Uint8Array
  leaseMs?: number
  maxCrashes?: number
  remote?: boolean
}

/** The spool as an object, without touching the disk. Tests and the simulation start here. */
export function makeSpool(o: SpoolOptions): Spool {
  const remote = o.remote ?? false
  const plain = o.fs ?? nodeFs(() => remote)
  const fs = o.around?.(plain) ?? plain
  const clock = o.clock ?? { now: () => Date.now(), mono: () => performance.now() }
  const random = o.random ?? ((n: number) => process.getBuiltinModule('node:crypto').randomBytes(n))
  return {
    layout: o.layout,
    fs,
    clock,
    random,
    log: o.log ?? (() => {}),
    sync: groupSync((dir) => fs.syncDir(dir)),
    newId: ulidMaker(clock.now, random),
    leaseMs: o.leaseMs ?? 30_000,
    maxCrashes: o.maxCrashes ?? 10,
    remote,
    observed: new Map(),
    durableLanes: new Set(),
    intake: emptyIntake(),
  }
}

/** A few random bytes in hex, for names that must not meet. */
export function randomHex(s: Spool, bytes = 6): string {
  return Buffer.from(s.random(bytes)).toString('hex')
}

/** The folders of a spool with their modes. Clients write to queue/ and control/, agents alone to jobs/ and owners/. */
export function spoolFolders(l: Layout): [string, number][] {
  return [
    [l.queue, 0o1777],
    [l.jobs, 0o750],
    [l.intake, 0o750],
    [l.payload, 0o750],
    [l.lanes, 0o750],
    [l.new, 0o750],
    [l.held, 0o750],
    [l.claimed, 0o750],
    [l.started, 0o750],
    [l.committed, 0o750],
    [l.done, 0o750],
    [l.failed, 0o750],
    [l.cancelled, 0o750],
    [l.rejected, 0o750],
    [l.owners, 0o755],
    [l.control, 0o1777],
    [l.output, 0o755],
    [l.work, 0o755],
    [l.old, 0o755],
    [l.vms, 0o755],
    [l.outputJobs, 0o755],
    [l.superseded, 0o755],
    [l.daemon, 0o755],
  ]
}

async function isNetworkFs(path: string): Promise<boolean> {
  return isNetworkType((await statfs(path)).type)
}

/**
 * Opens a spool on disk. With `create` missing folders are made (agents, submit); without, a missing spool is an error.
 * @throws SpoolError 73 when the spool is missing or cannot be made, 74 on I/O errors, 77 when permission is missing,
 *   78 when its folders do not lie in one file system.
 */
export async function openSpool(o: SpoolOptions & { create?: boolean }): Promise<Spool> {
  const l = o.layout
  if (o.create) await create(l)
  else {
    for (const dir of [l.queue, l.jobs, l.output]) {
      try {
        await access(dir, constants.X_OK)
      } catch (error) {
        throw unusable(dir, l, error)
      }
    }
  }
  await checkOneFilesystem(l)
  const remote = o.remote ?? ((await isNetworkFs(l.queue)) || (await isNetworkFs(l.output)))
  return makeSpool({ ...o, remote })
}

async function create(l: Layout): Promise<void> {
  for (const [dir, mode] of spoolFolders(l)) {
    try {
      const first = await mkdir(dir, { recursive: true, mode: 0o755 })
      // One that root adds to a spool of others is theirs.
      if (first !== undefined && process.geteuid?.() === 0) {
        const above = await stat(dirname(first))
        if (above.uid !== 0)
          for (let made = dir; made !== dirname(first); made = dirname(made)) await chown(made, above.uid, above.gid)
      }
      // mkdir's mode is cut by the umask; a folder that was there keeps the mode its administrator chose. Which it was, mkdir knows:
      // a birth time is by the file server's clock, and NFS 3 has none. One that hands its group on (setgid) lies in an installation's
      // folder; the unit could not set that bit again.
      if (first !== undefined && ((await stat(dir)).mode & 0o2000) === 0) {
        const { chmod } = await import('node:fs/promises')
        await chmod(dir, mode)
      }
    } catch (error) {
      throw unusable(dir, l, await notMade(dir, error))
    }
  }
}

/** Node says ENOENT of a folder that it could not make because the ones above are missing and could not be made either: why not? */
async function notMade(dir: string, error: unknown): Promise<unknown> {
  if (errno(error) !== 'ENOENT') return error
  for (let above = dirname(dir); ; above = dirname(above)) {
    try {
      await access(above, constants.W_OK)
      return error
    } catch (e) {
      if (errno(e) !== 'ENOENT' || above === '/') return e
    }
  }
}

function unusable(dir: string, l: Layout, error: unknown): SpoolError {
  const code = errno(error)
  if (code === 'EACCES' || code === 'EPERM') {
    return new SpoolError(
      `The folder ${dir} of the spool "${l.instance}" may not be used by uid ${process.getuid?.()} (${code}). ` +
        'Ask for membership of the group that owns it, or choose another spool with --root.',
      77,
      { cause: error },
    )
  }
  if (code === 'EROFS') {
    return new SpoolError(
      `The folder ${dir} of the spool "${l.instance}" cannot be made or written: it is read-only (EROFS). Under systemd ` +
        `everything is but the instance's own folders; open it with \`systemctl edit\` of the agent's unit: [Service] ReadWritePaths=${l.root}.`,
      77,
      { cause: error },
    )
  }
  if (code === 'ENOENT' || code === 'ENOTDIR') {
    return new SpoolError(
      `There is no spool "${l.instance}" below ${l.root}: ${dir} is missing. Start its agent once ` +
        `(${startCommand(l)}), or name another spool with --instance and --root.`,
      73,
      { cause: error },
    )
  }
  return new SpoolError(`The folder ${dir} of the spool "${l.instance}" cannot be used: ${String(error)}`, 74, {
    cause: error,
  })
}

/** The mount that a folder lies in, as the kernel numbers them (proc(5), fdinfo): rename(2) goes by that and not by the device. */
function mountOf(dir: string): string | undefined {
  const fd = openSync(dir, O_PATH)
  try {
    return /^mnt_id:\s*(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[1]
  } catch {
    return undefined // no /proc
  } finally {
    closeSync(fd)
  }
}
/** open(2): Node has no name for it */
const O_PATH = 0o10000000

/** rename(2) is the protocol's only move, so queue/ and jobs/ must share a mount, and output/ must be one in itself. */
async function checkOneFilesystem(l: Layout): Promise<void> {
  const groups = [
    [l.queue, l.jobs, l.intake, l.new, l.claimed, l.committed, l.done],
    [l.output, l.work, l.outputJobs, l.superseded, l.old],
  ]
  for (const group of groups) {
    const devices = new Map<number, string>()
    const mounts = new Map<string, string>()
    for (const dir of group) {
      try {
        const s = await stat(dir)
        if (!devices.has(s.dev)) devices.set(s.dev, dir)
        const mount = mountOf(dir)
        if (mount !== undefined && !mounts.has(mount)) mounts.set(mount, dir)
      } catch (error) {
        if (errno(error) === 'EACCES') continue // a client need not see jobs/
        throw unusable(dir, l, error)
      }
    }
    const whole = `Put the whole of ${dirname(l.jobs)} on one file system (output/ may lie elsewhere as a whole).`
    if (devices.size > 1) {
      throw new SpoolError(
        `The folders ${[...devices.values()].join(' and ')} lie in different file systems, but jobs move between them by rename. ${whole}`,
        78,
      )
    }
    if (mounts.size > 1) {
      throw new SpoolError(
        `The folders ${[...mounts.values()].join(' and ')} lie in different mounts of one file system, and nothing can be renamed from one mount to another. ` +
          `Under systemd each folder of ReadWritePaths= and of StateDirectory= is a mount of its own. ${whole}`,
        78,
      )
    }
  }
}
