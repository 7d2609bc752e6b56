/**
 * Owners and leases. An owner is one agent process; its id is never used again, so a folder that carries it can be
 * taken away from it for good: that is how a stalled agent is fenced.
 */
import { readFileSync, readlinkSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { errno, SpoolError } from './errors.ts'
import { ensureDir, namesIn, removeFile } from './moves.ts'
import { type JobName, parseJobName } from './names.ts'
import { type Owner, randomHex, type Spool } from './spool.ts'

export interface Lease {
  schema: 1
  owner: string
  host: string
  boot_id: string
  pidns: number
  pid: number
  /** /proc/<pid>/stat field 22, clock ticks since boot */
  start_ticks: number
  role: 'main' | 'worker'
  instance: string
  started_at: string
  /** rises with every heartbeat; the only sign of life that others trust */
  counter: number
  version?: string
  /** what its host has (`host.labels`), for jobs that ask for it */
  labels?: readonly string[]
}

/** This process as others can find it again. Injected by the simulation. */
export interface Self {
  host: string
  boot_id: string
  pidns: number
  pid: number
  start_ticks: number
}

let cachedSelf: Self | undefined

/** Who this process is: host, boot, pid namespace, pid and start time (proc(5)). */
export function thisProcess(): Self {
  cachedSelf ??= {
    host: hostname(),
    boot_id: readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim(),
    pidns: Number(/\d+/.exec(readlinkSync('/proc/self/ns/pid'))?.[0] ?? 0),
    pid: process.pid,
    start_ticks: startTicks(process.pid) ?? 0,
  }
  return cachedSelf
}

function startTicks(pid: number): number | undefined {
  try {
    const line = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = line.slice(line.lastIndexOf(')') + 2).split(' ')
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : Number(fields[19])
  } catch {
    return undefined
  }
}

function ownerId(s: Spool, self: Self): string {
  const host = self.host.replace(/[^\w-]/g, '_').slice(0, 32) || 'host'
  return `${host}.${self.boot_id.slice(0, 8)}.${self.pidns}.${self.pid}.${self.start_ticks}.${randomHex(s, 5)}`
}

export function me(s: Spool): Owner {
  if (!s.owner) throw new SpoolError('This spool was opened for reading only: no owner was started.', 70)
  return s.owner
}

const selves = new WeakMap<Spool, Self>()

/**
 * Start: the lease first, then my folders, then fsync of their parents. They are never made again: renaming or removing
 * one fences this owner, and a folder that came back would unfence it.
 */
export async function startOwner(
  s: Spool,
  o: { role?: 'main' | 'worker'; self?: Self; version?: string; labels?: readonly string[] } = {},
): Promise<void> {
  const self = o.self ?? thisProcess()
  selves.set(s, self)
  const owner: Owner = {
    id: ownerId(s, self),
    counter: 0,
    role: o.role ?? 'main',
    ...(o.labels ? { labels: o.labels } : {}),
    started_at: new Date(s.clock.now()).toISOString(),
    since: s.clock.mono(),
  }
  await writeLease(s, owner, self)
  await s.sync(s.layout.owners)
  const l = s.layout
  for (const parent of [l.intake, l.claimed, l.old]) await ensureDir(s, join(parent, owner.id), 0o750)
  await Promise.all([s.sync(l.intake), s.sync(l.claimed), s.sync(l.old)])
  s.owner = owner
  s.intake.raw.clear()
  s.intake.kept.clear()
  s.intake.lastListed = Number.NEGATIVE_INFINITY
}

async function writeLease(s: Spool, owner: Owner, self: Self): Promise<void> {
  const lease: Lease = {
    schema: 1,
    owner: owner.id,
    ...self,
    role: owner.role,
    instance: s.layout.instance,
    started_at: owner.started_at,
    counter: owner.counter,
    ...(owner.labels && owner.labels.length > 0 ? { labels: owner.labels } : {}),
  }
  const path = join(s.layout.owners, `${owner.id}.json`)
  const temp = join(s.layout.owners, `.${owner.id}.${randomHex(s, 3)}.tmp`)
  await s.fs.writeFile(temp, `${JSON.stringify(lease)}\n`, { mode: 0o644, sync: false })
  await s.fs.rename(temp, path)
}

/**
 * Proves that we live, and looks what we own. The listing counts, not memory: a claim whose reply was lost is in the
 * folder though we never heard of it, and what another agent took from us is not.
 */
export async function heartbeat(s: Spool): Promise<{ fenced: boolean; owned: JobName[] }> {
  const owner = me(s)
  owner.counter += 1
  try {
    const files = await s.fs.readdirFresh(join(s.layout.claimed, owner.id))
    await s.fs.readdir(join(s.layout.intake, owner.id))
    await s.fs.readdir(join(s.layout.old, owner.id))
    await writeLease(s, owner, selves.get(s) ?? thisProcess())
    return { fenced: false, owned: files.map(parseJobName).filter((n) => n !== undefined) }
  } catch (error) {
    if (errno(error) === 'ENOENT') return { fenced: true, owned: [] }
    throw error
  }
}

/** Leaves in good order: empty folders first, the lease last (a folder without a lease is a dead owner's). */
export async function stopOwner(s: Spool): Promise<void> {
  const owner = me(s)
  const l = s.layout
  for (const parent of [l.claimed, l.intake, l.old]) {
    try {
      await s.fs.rmdir(join(parent, owner.id))
    } catch (error) {
      if (errno(error) === 'ENOTEMPTY' || errno(error) === 'EEXIST') {
        s.log('owner.leftovers', { owner: owner.id, folder: parent })
        s.owner = undefined
        return // the next agent takes it over; the lease stays until then
      }
      if (errno(error) !== 'ENOENT') throw error
    }
  }
  s.owner = undefined
  await removeFile(s, join(l.owners, `${owner.id}.json`))
}

async function readLease(s: Spool, owner: string): Promise<Lease | undefined> {
  try {
    const { bytes } = await s.fs.readFile(join(s.layout.owners, `${owner}.json`), 65_536)
    const lease = JSON.parse(bytes.toString('utf8'))
    return typeof lease?.counter === 'number' ? lease : undefined
  } catch (error) {
    if (error instanceof SyntaxError || errno(error) === 'ENOENT' || errno(error) === 'ESTALE') return undefined
    throw error
  }
}

/** All leases, for views and for the election of a reaper. */
export async function readOwners(s: Spool): Promise<Lease[]> {
  const leases: Lease[] = []
  for (const file of await namesIn(s, s.layout.owners)) {
    if (file.startsWith('.') || !file.endsWith('.json')) continue
    const lease = await readLease(s, file.slice(0, -5))
    if (lease) leases.push(lease)
  }
  return leases
}

/** Whether a lease's process is certainly gone: only this boot and this pid namespace can tell. */
function processGone(lease: Lease, self: Self): boolean {
  if (lease.boot_id !== self.boot_id || lease.pidns !== self.pidns) return false
  return startTicks(lease.pid) !== lease.start_ticks
}

/**
 * The owners that have folders and are dead: their process is gone (told by this host alone), or their lease's counter
 * did not change for the lease time on our own monotonic clock. No clock of another host and no mtime is ever compared.
 */
export async function deadOwners(s: Spool): Promise<string[]> {
  const l = s.layout
  const self = selves.get(s) ?? thisProcess()
  const seen = new Set<string>()
  for (const dir of [l.claimed, l.intake, l.old]) for (const name of await namesIn(s, dir)) seen.add(name)
  for (const file of await namesIn(s, l.owners)) {
    if (file.endsWith('.json') && !file.startsWith('.')) seen.add(file.slice(0, -5))
  }
  if (s.owner) seen.delete(s.owner.id)
  const dead: string[] = []
  for (const owner of [...seen].sort()) {
    if (owner.startsWith('.')) continue
    const lease = await readLease(s, owner)
    if (lease && processGone(lease, self)) {
      dead.push(owner)
      continue
    }
    const counter = lease?.counter ?? -1
    const before = s.observed.get(owner)
    if (!before || before.counter !== counter) s.observed.set(owner, { counter, since: s.clock.mono() })
    else if (s.clock.mono() - before.since >= s.leaseMs) dead.push(owner)
  }
  for (const owner of s.observed.keys()) if (!seen.has(owner)) s.observed.delete(owner)
  return dead
}
