/**
 * `vms.json` on the disk. A change is a whole new file: written aside, fsynced, and renamed; the file before it is the backup.
 *
 * Who writes which revision is decided by link(2) on `.vms.json.<revision>`, not by a lock: of several that read revision n, one can make
 * the name of n + 1. It then renames its file to `vms.json`; if it was killed in between, the next writer does that. So a lock that two
 * hold at once (proper-lockfile's can be, after a kill or a stall) costs a repetition, never a change.
 */
import { randomBytes } from 'node:crypto'
import { constants } from 'node:fs'
import { link, mkdir, open, readdir, rename, statfs, unlink } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { isNetworkType } from '../process/network-fs.ts'
import { type BadEntry, upgradeGhost } from './registry-ghost.ts'
import { headSchema, recordSchema, SCHEMA } from './registry-schema.ts'
import type { VmRecord } from './types.ts'

/** What stands in the file. */
export interface RegistryContent {
  revision: number
  instance: string
  host: string
  recover?: Recovery
  vms: Map<string, VmRecord>
  /** fields of newer versions, kept */
  more: Record<string, unknown>
}

/** What was lost and is still to be found again among libvirt's domains. */
export interface Recovery {
  since: string
  reason: string
  /** absent: everything */
  names?: string[]
}

export type ReadRegistry =
  | { is: 'good'; content: RegistryContent; bad: BadEntry[]; ghost?: true }
  | { is: 'absent' }
  /** `why` is the end of a sentence */
  | { is: 'corrupt'; why: string }

/** No registry is larger, in bytes: tens of thousands of VMs. */
const MAX_BYTES = 256 * 1024 * 1024

/** Where the registry of a host lies: on a file system that several hosts share, each has its own. */
export async function registryName(dir: string, host: string): Promise<string> {
  const shared = await statfs(dir).then(
    (s) => isNetworkType(s.type),
    () => false,
  )
  return shared ? `vms@${host.replace(/[^A-Za-z0-9_.-]/g, '_')}.json` : 'vms.json'
}

export const isRegistryName = (name: string): boolean => /^vms(?:@[^/]+)?\.json$/.test(name)

/** @throws the file system's error when the file is there and cannot be read: that is no reason to take it for lost */
export async function readRegistryFile(path: string, o: { instance: string; host: string }): Promise<ReadRegistry> {
  let text: string
  try {
    text = await readText(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return { is: 'absent' }
    if ((error as NodeJS.ErrnoException).code === 'ENOTREG') return { is: 'corrupt', why: (error as Error).message }
    throw error
  }
  return parseRegistry(text, o)
}

function parseRegistry(text: string, o: { instance: string; host: string }): ReadRegistry {
  let raw: unknown
  try {
    raw = JSON.parse(text)
  } catch (error) {
    return { is: 'corrupt', why: text.trim() === '' ? 'it is empty' : `it is no JSON (${(error as Error).message})` }
  }
  const ghost = upgradeGhost(raw, o)
  if (ghost) {
    const content = { revision: 0, instance: o.instance, host: o.host, vms: ghost.vms, more: {} }
    return { is: 'good', content, bad: ghost.bad, ghost: true }
  }
  const schema = (raw as { schema?: unknown } | null)?.schema
  if (typeof schema === 'number' && schema > SCHEMA)
    return { is: 'corrupt', why: `it has schema ${schema}, and this vmspool knows no newer one than ${SCHEMA}` }
  const head = headSchema.safeParse(raw)
  if (!head.success) {
    const issue = head.error.issues[0]!
    return { is: 'corrupt', why: `it is not what a registry looks like (${issue.path.join('.')}: ${issue.message})` }
  }
  const { schema: _, revision, instance, host, recover, vms, ...more } = head.data
  const content: RegistryContent = { revision, instance, host, vms: new Map(), more }
  if (recover) content.recover = recover as Recovery
  const bad: BadEntry[] = []
  for (const [name, entry] of Object.entries(vms)) {
    const read = recordSchema.safeParse(entry)
    if (read.success && read.data.name === name) content.vms.set(name, read.data as VmRecord)
    else bad.push({ name, why: read.success ? `its name is ${read.data.name}` : firstIssue(read.error.issues) })
  }
  return { is: 'good', content, bad }
}

const firstIssue = (issues: readonly { path: PropertyKey[]; message: string }[]): string =>
  issues.length === 0 ? 'it is wrong' : `${issues[0]!.path.join('.') || 'the entry'}: ${issues[0]!.message}`

function textOf(c: RegistryContent): string {
  const vms = Object.fromEntries([...c.vms].sort(([a], [b]) => (a < b ? -1 : 1)))
  const { revision, instance, host, recover } = c
  return `${JSON.stringify({ schema: SCHEMA, revision, instance, host, ...(recover ? { recover } : {}), ...c.more, vms }, null, 2)}\n`
}

/**
 * Makes `next` what the registry says, with a revision higher by one.
 * @param base the revision that the file must still have; undefined: there is none, or none that can be read
 * @returns false when somebody else was faster: read again
 */
export async function commitRegistry(path: string, base: number | undefined, next: RegistryContent): Promise<boolean> {
  const dir = dirname(path)
  const revision = next.revision + 1
  const claim = claimName(path, revision)
  const aside = `${claim}.${randomBytes(6).toString('hex')}`
  await writeSynced(aside, textOf({ ...next, revision }))
  try {
    if (!(await claimed(aside, claim))) return false
    // The name was free also if that revision had come and gone while we were slow: then the file has moved on.
    if ((await revisionOf(path)) !== base) {
      await drop(claim)
      return false
    }
    await keepBackup(path)
    // Gone: whoever found us slow has renamed a link of the same file.
    await rename(aside, path).catch(ignore('ENOENT'))
    await syncDir(dir)
    await drop(claim)
    return true
  } finally {
    await drop(aside)
  }
}

/**
 * What a writer that was killed has left: its revision is decided once the name exists, so it is published; everything older is removed.
 * Only under the lock.
 */
export async function tidyRegistry(path: string): Promise<void> {
  const dir = dirname(path)
  const prefix = claimName(path, '').slice(dir.length + 1)
  const backups = `${path.slice(dir.length + 1)}.bak.`
  const names = await readdir(dir)
  for (const n of names) {
    if (n.startsWith(backups) && /^[0-9a-f]{12}$/.test(n.slice(backups.length))) await drop(join(dir, n))
  }
  const left = names.filter((n) => n.startsWith(prefix) && /^\d+(?:\.[0-9a-f]{12})?$/.test(n.slice(prefix.length)))
  if (left.length === 0) return
  const current = (await revisionOf(path)) ?? 0
  const decided = `${prefix}${current + 1}`
  let now = current
  if (left.includes(decided)) {
    const aside = `${claimName(path, current + 1)}.${randomBytes(6).toString('hex')}`
    await link(join(dir, decided), aside)
    await keepBackup(path)
    await rename(aside, path)
    await syncDir(dir)
    now = current + 1
  }
  // First what could still be renamed to vms.json by its maker, then the names that decide.
  const old = left.filter((n) => Number.parseInt(n.slice(prefix.length), 10) <= now)
  for (const name of old.filter((n) => n !== decided)) await drop(join(dir, name))
  if (old.includes(decided)) await drop(join(dir, decided))
}

const claimName = (path: string, revision: number | string): string => {
  const dir = dirname(path)
  return join(dir, `.${path.slice(dir.length + 1)}.${revision}`)
}

/** Of several that want to make this revision one is told true. */
async function claimed(aside: string, claim: string): Promise<boolean> {
  try {
    await link(aside, claim)
    return true
  } catch (error) {
    // ENOENT: we were so slow that our file counted as a leftover
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EEXIST' || code === 'ENOENT') return false
    throw error
  }
}

/** undefined: there is no file, or nobody can read it */
async function revisionOf(path: string): Promise<number | undefined> {
  try {
    const { revision } = JSON.parse(await readText(path))
    return typeof revision === 'number' ? revision : undefined
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === undefined || code === 'ENOENT' || code === 'ENOTREG') return undefined
    throw error
  }
}

/** The file as it is becomes `vms.json.bak`. */
async function keepBackup(path: string): Promise<void> {
  const temp = `${path}.bak.${randomBytes(6).toString('hex')}`
  try {
    await link(path, temp)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
    throw error
  }
  await rename(temp, `${path}.bak`).catch(ignore('ENOENT'))
  // rename(2) of two links to one file does nothing and leaves both
  await drop(temp)
}

/**
 * Keeps the file as `<path>.<word>-<time>`: what cannot be used is moved there, what is only going to be replaced has a second name there.
 * @returns where it is
 */
export async function setAside(path: string, word: 'corrupt' | 'ghost', how: 'move' | 'keep'): Promise<string> {
  const stamp = new Date().toISOString().replace(/[-:.]/g, '')
  const to = `${path}.${word}-${stamp}`
  await (how === 'move' ? rename(path, to) : link(path, to))
  await syncDir(dirname(path))
  return to
}

export async function makeRegistryDir(dir: string): Promise<void> {
  await mkdir(dir, { recursive: true, mode: 0o755 })
}

const READ = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK

async function readText(path: string): Promise<string> {
  const notRegular = (why: string) => Object.assign(new Error(why), { code: 'ENOTREG' })
  await using file = await open(path, READ).catch((error: NodeJS.ErrnoException) => {
    throw error.code === 'ELOOP' || error.code === 'ENXIO' ? notRegular('it is no regular file') : error
  })
  const s = await file.stat()
  if (!s.isFile()) throw notRegular('it is no regular file')
  if (s.size > MAX_BYTES) throw notRegular(`it has ${s.size} bytes`)
  return file.readFile('utf8')
}

async function writeSynced(path: string, text: string): Promise<void> {
  await using file = await open(path, 'wx', 0o644)
  try {
    await file.writeFile(text)
    await file.sync()
  } catch (error) {
    await drop(path)
    throw error
  }
}

async function syncDir(dir: string): Promise<void> {
  await using file = await open(dir, constants.O_RDONLY | constants.O_DIRECTORY)
  await file.sync()
}

const drop = (path: string): Promise<void> => unlink(path).catch(ignore('ENOENT'))

function ignore(code: string): (error: NodeJS.ErrnoException) => void {
  return (error) => {
    if (error.code !== code) throw error
  }
}
