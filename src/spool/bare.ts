/**
 * Bare disks: an image dropped without a manifest becomes a `convert` job of its own, but never while an export may still be
 * being written around it. It is a job's own only after it moved to jobs/payload/<id>/.
 */
import { join } from 'node:path'
import { writeToken, type Accepted } from './accept.ts'
import { errno } from './errors.ts'
import type { EntryKind, FileStat } from './fs.ts'
import { finish } from './finish.ts'
import { clip, type IntakeOptions } from './intake-options.ts'
import { ensureDurableDir, listed, move, namesIn, removeFile, removeTree } from './moves.ts'
import { keyOf } from './names.ts'
import { me } from './owner.ts'
import type { JobRecord } from './record.ts'
import { randomHex, type Spool } from './spool.ts'

const DISK = /\.(?:ovf|(?:vmdk|ova|vhd|vhdx|vdi|qcow2|raw|img)(?:\.gz)?)$/i

/** Whether a name ends like a disk that may be dropped without a manifest. */
export function isBareDisk(name: string): boolean {
  return DISK.test(name)
}

function signatureOf(stat: FileStat): string {
  return `${stat.ino}:${stat.size}:${stat.mtime_ms}`
}

/**
 * Remembers which files of the queue a manifest names, so that an export that wrote its disks there is one job and not
 * three, also after the manifest was taken. The note holds for the file as it was: another of that name is another drop.
 */
export async function reserveNamed(s: Spool, record: JobRecord): Promise<void> {
  for (const disk of disksIn(record.manifest)) {
    if (typeof disk?.local_path !== 'string') continue
    const path = disk.local_path
    if (path.slice(0, path.lastIndexOf('/')) !== s.layout.queue) continue
    const name = path.slice(path.lastIndexOf('/') + 1)
    const stat = await s.fs.lstat(path).catch(() => undefined)
    const note = { name, job: record.id, signature: stat && signatureOf(stat) }
    const temp = join(s.layout.payload, `.${randomHex(s)}.tmp`)
    await s.fs.writeFile(temp, JSON.stringify(note), { mode: 0o640, sync: true })
    await s.fs.rename(temp, join(s.layout.payload, `.named-${keyOf(name)}`))
  }
}

interface Naming {
  disks?: { local_path?: unknown }[]
  vms?: { manifest?: unknown }[]
}

/** The disks of a manifest, those of the manifests that stand in a batch included. */
function disksIn(m: unknown): { local_path?: unknown }[] {
  const { disks, vms } = m as Naming
  const inBatch = (vms ?? []).flatMap((vm) => (typeof vm.manifest === 'object' ? disksIn(vm.manifest) : []))
  return [...(disks ?? []), ...inBatch]
}

async function isReserved(s: Spool, notes: ReadonlySet<string>, name: string, stat: FileStat): Promise<boolean> {
  const note = `.named-${keyOf(name)}`
  if (!notes.has(note)) return false
  try {
    const { bytes } = await s.fs.readFile(join(s.layout.payload, note), 65_536)
    const { signature } = JSON.parse(bytes.toString('utf8'))
    return signature === undefined || signature === signatureOf(stat)
  } catch {
    return false
  }
}

/** Looks at the disks in the queue; those that are settled become jobs. */
export async function scanBare(
  s: Spool,
  o: IntakeOptions,
  entries: { name: string; kind: EntryKind }[],
): Promise<Accepted[]> {
  const disks = entries
    .filter((e) => e.kind === 'file' && isBareDisk(e.name) && !e.name.startsWith('.'))
    .map((e) => e.name)
  for (const name of s.intake.bare.keys()) if (!disks.includes(name)) s.intake.bare.delete(name)
  if (disks.length === 0) return []
  const settled = await settle(s, o, disks)
  if (settled.length === 0) return []
  const notes = new Set(await namesIn(s, s.layout.payload))
  const named = await namedInFolder(s, entries)
  const inspected = new Map<string, { parts: string[]; source_format: string; stat: FileStat }>()
  for (const { name, stat } of settled) {
    if (await isReserved(s, notes, name, stat)) continue
    const found = await inspect(s, o, name)
    if (found) inspected.set(name, { ...found, stat })
  }
  for (const { parts } of inspected.values()) for (const part of parts) named.add(part)
  const ready = new Set(settled.map((x) => x.name))
  const out: Accepted[] = []
  for (const [name, { parts, source_format, stat }] of inspected) {
    if (named.has(name)) continue
    // An export's parts are written one after the other: all must be there and settled, or it is not done.
    const missing = parts.find((p) => !ready.has(p) && (isBareDisk(p) || !entries.some((e) => e.name === p)))
    if (missing !== undefined) {
      complain(s, name, `it names ${missing}, which is not there yet or still changes`)
      continue
    }
    let reserved = false
    for (const part of parts) {
      const partStat = await s.fs.lstat(join(s.layout.queue, part)).catch(() => undefined)
      if (partStat && (await isReserved(s, notes, part, partStat))) reserved = true
    }
    if (reserved) continue // the OVF of an export that came with a manifest
    out.push(...(await takeBare(s, o, { name, parts, source_format, uid: stat.uid, gid: stat.gid, bytes: stat.size })))
  }
  return out
}

async function settle(s: Spool, o: IntakeOptions, disks: string[]): Promise<{ name: string; stat: FileStat }[]> {
  const out: { name: string; stat: FileStat }[] = []
  for (const name of disks) {
    const stat = await s.fs.lstat(join(s.layout.queue, name)).catch(() => undefined)
    if (stat?.kind !== 'file') continue
    const signature = signatureOf(stat)
    const before = s.intake.bare.get(name)
    if (!before || before.signature !== signature) s.intake.bare.set(name, { signature, since: s.clock.mono() })
    else if (s.clock.mono() - before.since >= o.settings.file_stable_ms) out.push({ name, stat })
  }
  return out
}

/** A disk that stays unfinished for ten times the usual patience is taken all the same: its job then says what is wrong. */
const LAST_PATIENCE = 10

async function inspect(
  s: Spool,
  o: IntakeOptions,
  name: string,
): Promise<{ parts: string[]; source_format: string } | undefined> {
  const ext = name.replace(/^.*\.(\w+)(?:\.gz)?$/i, '$1').toLowerCase()
  const asItIs = { parts: [], source_format: ext === 'img' ? 'raw' : ext }
  if (!o.inspectDrop) return asItIs
  let why: string
  try {
    const found = await o.inspectDrop(join(s.layout.queue, name))
    if (found.incomplete === undefined) return found
    why = found.incomplete
  } catch (error) {
    why = String((error as Error).message ?? error)
  }
  const since = s.intake.bare.get(name)?.since ?? s.clock.mono()
  if (s.clock.mono() - since >= LAST_PATIENCE * Math.max(1_000, o.settings.file_stable_ms)) return asItIs
  complain(s, name, why)
  return undefined
}

/** Says once per state of the file why it is not taken. */
function complain(s: Spool, name: string, reason: string): void {
  const seen = s.intake.bare.get(name)
  if (!seen || seen.complained === reason) return
  seen.complained = reason
  s.log('intake.bare-waits', { file: name, reason })
}

/** File names that a manifest or OVF in the queue, or one taken and not yet complete, mentions. */
async function namedInFolder(s: Spool, entries: { name: string; kind: EntryKind }[]): Promise<Set<string>> {
  const texts: string[] = []
  const paths = entries
    .filter((e) => e.kind === 'file' && /\.(json|ya?ml)$/i.test(e.name))
    .map((e) => join(s.layout.queue, e.name))
  for (const raw of s.intake.raw.values()) paths.push(join(raw.folder, raw.file))
  for (const path of paths) {
    try {
      texts.push((await s.fs.readFile(path, 1 << 20)).bytes.toString('utf8'))
    } catch {
      // gone or unreadable: it names nothing
    }
  }
  const named = new Set<string>()
  for (const e of entries) if (isBareDisk(e.name) && texts.some((t) => t.includes(e.name))) named.add(e.name)
  return named
}

interface BareIntent {
  name: string
  parts: string[]
  source_format: string
  uid: number
  gid: number
  bytes: number
}

/**
 * Takes a settled disk: the intent first (durable), then the files, then the token. A crash in between leaves the intent, and
 * whoever finds it goes on.
 */
async function takeBare(s: Spool, o: IntakeOptions, intent: BareIntent): Promise<Accepted[]> {
  const folder = join(s.layout.intake, me(s).id)
  const id = s.newId()
  const temp = join(folder, `.${id}.${randomHex(s, 4)}.tmp`)
  await s.fs.writeFile(temp, JSON.stringify(intent), { mode: 0o640, sync: true })
  await s.fs.rename(temp, join(folder, `${id}.payload`))
  await s.sync(folder)
  for (const name of [intent.name, ...intent.parts]) s.intake.bare.delete(name)
  return completeBare(s, o, folder, id, intent)
}

/** Goes on with an intent that was cut off before its token was written. */
export async function resumeBare(s: Spool, o: IntakeOptions, folder: string, id: string): Promise<Accepted[]> {
  const { bytes } = await s.fs.readFile(join(folder, `${id}.payload`), 1 << 20)
  return completeBare(s, o, folder, id, JSON.parse(bytes.toString('utf8')))
}

async function completeBare(
  s: Spool,
  o: IntakeOptions,
  folder: string,
  id: string,
  intent: BareIntent,
): Promise<Accepted[]> {
  const dir = join(s.layout.payload, id)
  const path = join(folder, `${id}.payload`)
  if (!(await listed(s, path))) return []
  await ensureDurableDir(s, dir, 0o750)
  const files = [intent.name, ...intent.parts]
  for (const file of files) {
    const to = join(dir, file)
    if (!(await listed(s, to))) await move(s, join(s.layout.queue, file), to)
  }
  await Promise.all([s.sync(dir), s.sync(s.layout.queue)])
  const there = await s.fs.readdirFresh(dir)
  if (!there.includes(intent.name)) {
    // Somebody took it away in the last moment: what did move goes back, and nothing happened.
    const queue = new Set(await s.fs.readdirFresh(s.layout.queue))
    for (const file of there) if (!queue.has(file)) await move(s, join(dir, file), join(s.layout.queue, file))
    if ((await namesIn(s, dir, true)).length === 0) await removeTree(s, dir)
    await removeFile(s, path)
    return []
  }
  const record = bareRecord(s, o, id, dir, intent, there)
  await writeToken(s, folder, record)
  // The intent must be gone for good before the token leaves: an intent alone would make the job a second time.
  await removeFile(s, path)
  await s.sync(folder)
  return finish(s, folder, [record])
}

function bareRecord(
  s: Spool,
  o: IntakeOptions,
  id: string,
  dir: string,
  intent: BareIntent,
  payload: string[],
): JobRecord {
  const stem = intent.name.replace(DISK, '')
  const manifest = {
    manifest_version: '1.0',
    kind: 'convert',
    name: stem,
    disks: [
      { id: 'disk-0', source_format: intent.source_format, bytes: intent.bytes, local_path: join(dir, intent.name) },
    ],
  }
  const parsed = o.parse(Buffer.from(JSON.stringify(manifest)), `${clip(stem)}.json`)
  const drop = {
    file: intent.name,
    at: new Date(s.clock.now()).toISOString(),
    uid: intent.uid,
    gid: intent.gid,
    bytes: intent.bytes,
    sha256: '',
    bare: true,
  }
  const base = { schema: 1 as const, id, kind: 'convert', drop, diagnostics: parsed.diagnostics, payload }
  if (parsed.state === 'complete') return { ...base, answer: stem, manifest: parsed.manifest }
  const why = parsed.diagnostics.map((d) => d.message).join(' ')
  return {
    ...base,
    answer: 'vm',
    manifest: manifest as never,
    rejected: { message: `The disk ${intent.name} cannot become a job: ${why} Rename it and drop it again.` },
  }
}

/** Notes of names whose file is gone from the queue. */
export async function forgetNamed(s: Spool, olderThanMs: number): Promise<void> {
  const queue = new Set(await namesIn(s, s.layout.queue))
  for (const file of await namesIn(s, s.layout.payload)) {
    if (!file.startsWith('.named-')) continue
    const path = join(s.layout.payload, file)
    try {
      const { bytes, stat } = await s.fs.readFile(path, 65_536)
      if (s.clock.now() - stat.mtime_ms < olderThanMs) continue
      if (!queue.has(JSON.parse(bytes.toString('utf8')).name)) await removeFile(s, path)
    } catch (error) {
      if (errno(error) !== 'ENOENT') throw error
    }
  }
}
