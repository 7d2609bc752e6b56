/**
 * Intake: from queue/, where strangers write as they like, to accepted jobs. A drop is taken at once by rename, so the
 * next one of that name is a new job; it is complete when it parses.
 */
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { answerNameOf } from '../manifest/answers.ts'
import type { Diagnostic, Manifest } from '../manifest/index.ts'
import { safeName } from '../manifest/safe-name.ts'
import { type Accepted, writeToken } from './accept.ts'
import { refuseWhatCannotRun } from './accept-records.ts'
import { isBareDisk, reserveNamed, resumeBare, scanBare } from './bare.ts'
import { finish } from './finish.ts'
import { clip, type IntakeOptions } from './intake-options.ts'
import { errno } from './errors.ts'
import type { EntryKind, FileStat } from './fs.ts'
import { move, namesIn, removeFile } from './moves.ts'
import { baseUlid, keyOf, nextUlid } from './names.ts'
import { me } from './owner.ts'
import { type JobRecord, readRecord } from './record.ts'
import type { RawDrop, Spool } from './spool.ts'

export interface IntakeRound {
  accepted: Accepted[]
  /** drops taken that are not complete yet */
  pending: number
  /** there is more in the queue than one round takes */
  more: boolean
}

const MANIFEST = /\.(json|yaml|yml)$/i
const IGNORED = /^\.|~$|\.(tmp|part)$/i
const RELIST_MS = 10_000

/**
 * One round: take what lies in the queue, accept what is complete, look after what was left. Rounds of one agent must not
 * overlap. Everything is safe to cut off and to repeat.
 */
export async function takeAndAccept(s: Spool, o: IntakeOptions): Promise<IntakeRound> {
  const accepted: Accepted[] = []
  const entries = await s.fs.readdirKinds(s.layout.queue)
  const more = await take(s, o, entries)
  if (s.clock.mono() - s.intake.lastListed >= RELIST_MS) accepted.push(...(await recover(s, o)))
  // Tokens side by side, then the tickets in the order of the takes: within a burst, too, the last drop has the name.
  const ready = await Promise.all(
    [...s.intake.raw.values()].map((raw) => guarded(s, raw, [], () => tryAccept(s, o, raw))),
  )
  const ended = await Promise.all(
    ready.flat().map((r) => guarded(s, r.raw, [], () => finish(s, r.raw.folder, [r.record]))),
  )
  accepted.push(...ended.flat())
  await reviewKept(s)
  accepted.push(...(await answerOddities(s, o, entries)))
  if (o.settings.bare_disks) accepted.push(...(await scanBare(s, o, entries)))
  return { accepted, pending: s.intake.raw.size, more }
}

/** Takes manifests. The rename is the claim on a drop; both folders are synced before the drop becomes a job. */
async function take(s: Spool, o: IntakeOptions, entries: { name: string; kind: EntryKind }[]): Promise<boolean> {
  const folder = join(s.layout.intake, me(s).id)
  const names = entries
    .filter((e) => e.kind === 'file' && MANIFEST.test(e.name) && !IGNORED.test(e.name))
    .map((e) => e.name)
  names.sort()
  const batch = o.batch ?? 512
  await Promise.all(
    names.slice(0, batch).map(async (name) => {
      if (name.includes('\ufffd')) return // not UTF-8: answered by answerOddities, left where it is
      const id = s.newId()
      const file = `${id}--${clip(name)}`
      if (await move(s, join(s.layout.queue, name), join(folder, file))) {
        s.intake.raw.set(id, { id, folder, file, name, signature: '', since: s.clock.mono() })
      }
    }),
  )
  return names.length > batch
}

async function guarded<T>(
  s: Spool,
  raw: { id: string; name: string },
  otherwise: T,
  run: () => Promise<T>,
): Promise<T> {
  try {
    return await run()
  } catch (error) {
    // The drop stays where it is; the next round or the next listing finds it again.
    s.intake.raw.delete(raw.id)
    s.intake.lastListed = Number.NEGATIVE_INFINITY
    s.log('intake.error', { drop: raw.name, id: raw.id, error: String(error) })
    return otherwise
  }
}

/** A drop whose token is written: all that is left is to accept it. */
interface Ready {
  raw: RawDrop
  record: JobRecord
}

async function tryAccept(s: Spool, o: IntakeOptions, raw: RawDrop): Promise<Ready[]> {
  const path = join(raw.folder, raw.file)
  // "take: no drop comes back after power loss". Under way while we read; awaited before the token is written.
  const durable = Promise.all([s.sync(raw.folder), s.sync(s.layout.queue)])
  durable.catch(() => {})
  const { max_manifest_bytes: max } = o.settings
  let bytes: Buffer
  let stat: FileStat
  try {
    const read = await s.fs.readFile(path, max + 1)
    bytes = read.bytes
    stat = read.stat
  } catch (error) {
    const code = errno(error)
    if (code === 'ENOENT') {
      s.intake.raw.delete(raw.id)
      return []
    }
    if (code !== 'ENOTREG' && code !== 'EACCES' && code !== 'EPERM') throw error
    const why =
      code === 'ENOTREG'
        ? 'It is not a regular file. Links, folders, FIFOs and devices are never followed or opened.'
        : `The agent (uid ${process.getuid?.()}) may not read it. Give it the mode 0640 and the group of the spool, then drop it again.`
    await durable
    return reject(s, raw, await s.fs.lstat(path), Buffer.alloc(0), [problem(why)], undefined)
  }
  if (bytes.length > max) {
    const why = `A manifest may have ${max} bytes at most, and this file has ${stat.size}. Disks are named in a manifest, not contained in it.`
    await durable
    return reject(s, raw, stat, Buffer.alloc(0), [problem(why)], undefined)
  }
  const sha256 = createHash('sha256').update(bytes).digest('hex')
  const signature = `${stat.size}:${sha256}`
  if (signature !== raw.signature) {
    raw.signature = signature
    raw.since = s.clock.mono()
  }
  const quiet = s.clock.mono() - raw.since
  const outcome = o.parse(bytes, raw.name)
  const yaml = /\.ya?ml$/i.test(raw.name) || (outcome.state === 'complete' && outcome.format === 'yaml')
  if (yaml && quiet < o.settings.yaml_quiet_ms) return []
  if (outcome.state === 'incomplete') {
    if (quiet < o.settings.incomplete_after_ms) return []
    await durable
    return reject(s, raw, stat, bytes, outcome.diagnostics, undefined, outcome.keep)
  }
  await durable
  if (outcome.state === 'invalid')
    return reject(s, raw, stat, bytes, outcome.diagnostics, outcome.partial, outcome.keep)

  const { manifest } = outcome
  const answer = answerNameOf(manifest) ?? `${manifest.kind}-${raw.id}`
  const record = recordOf(s, raw, stat, sha256, manifest, answer, outcome.diagnostics)
  await refuseWhatCannotRun(s, o, record)
  await reserveNamed(s, record)
  await writeToken(s, raw.folder, record)
  await setAside(s, o, raw, sha256)
  s.intake.raw.delete(raw.id)
  return [{ raw, record }]
}

function recordOf(
  s: Spool,
  raw: { id: string; name: string },
  stat: FileStat,
  sha256: string,
  manifest: Manifest,
  answer: string,
  diagnostics: Diagnostic[],
): JobRecord {
  const at = new Date(s.clock.now()).toISOString()
  const drop = { file: raw.name, at, uid: stat.uid, gid: stat.gid, bytes: stat.size, sha256 }
  const retryOf = (manifest as { retry_of?: unknown }).retry_of
  return {
    schema: 1,
    id: raw.id,
    kind: manifest.kind,
    answer,
    manifest,
    drop,
    diagnostics,
    ...(typeof retryOf === 'string' ? { retry_of: retryOf } : {}),
  }
}

/** The raw drop, now obsolete, is watched for a while: a writer that comes back makes it a second drop. */
async function setAside(s: Spool, o: IntakeOptions, raw: RawDrop, sha256: string): Promise<void> {
  const kept = join(raw.folder, `${raw.id}.kept--${clip(raw.name)}`)
  await move(s, join(raw.folder, raw.file), kept)
  await s.sync(raw.folder)
  const until = s.clock.mono() + o.settings.raw_keep_ms
  s.intake.kept.set(raw.id, { path: kept, folder: raw.folder, sha256, until, name: raw.name })
}

async function reviewKept(s: Spool): Promise<void> {
  for (const [id, kept] of s.intake.kept) {
    if (s.clock.mono() < kept.until) continue
    s.intake.kept.delete(id)
    try {
      const { bytes } = await s.fs.readFile(kept.path, 64 << 20)
      if (createHash('sha256').update(bytes).digest('hex') === kept.sha256) {
        await removeFile(s, kept.path)
        continue
      }
      const next = s.newId()
      const file = `${next}--${clip(kept.name)}`
      if (await move(s, kept.path, join(kept.folder, file))) {
        s.intake.raw.set(next, {
          id: next,
          folder: kept.folder,
          file,
          name: kept.name,
          signature: '',
          since: s.clock.mono(),
        })
        s.log('intake.second-write', { drop: kept.name, first: id, second: next })
      }
    } catch (error) {
      if (errno(error) !== 'ENOENT') s.log('intake.error', { drop: kept.name, id, error: String(error) })
    }
  }
}

function problem(message: string): Diagnostic {
  return { severity: 'error', path: '', message }
}

/** A rejected drop is a job that fails at once. What names nothing readable is answered under `vm` and under its stem. */
async function reject(
  s: Spool,
  raw: RawDrop,
  stat: FileStat,
  bytes: Uint8Array,
  diagnostics: Diagnostic[],
  partial: { answer?: string; kind?: string } | undefined,
  /** what is kept instead of the file, which holds secrets */
  keep?: string,
): Promise<Ready[]> {
  const sha256 = bytes.length > 0 ? createHash('sha256').update(bytes).digest('hex') : ''
  const answers =
    partial?.answer !== undefined && partial.answer !== 'vm' && safeName(partial.answer)
      ? [partial.answer]
      : unnamed(raw.name)
  const secret = keep !== undefined
  const records = await writeRejections(s, raw, stat, sha256, diagnostics, answers, partial?.kind, secret)
  const kept = join(s.layout.rejected, `${raw.id}--${clip(raw.name)}`)
  if (keep !== undefined) {
    // Of a drop with secrets in it a copy without them is kept; the token says so to a recovery, which then removes what is left.
    await s.fs.writeFile(kept, keep, { mode: 0o600, sync: true })
    await removeFile(s, join(raw.folder, raw.file))
  } else await move(s, join(raw.folder, raw.file), kept) // by rename: whatever it is and however large
  await Promise.all([s.sync(s.layout.rejected), s.sync(raw.folder)])
  s.intake.raw.delete(raw.id)
  return records.map((record) => ({ raw, record }))
}

function unnamed(file: string): string[] {
  const stem = file.replace(/\.[^.]*$/, '')
  return safeName(stem) && stem !== 'vm' ? ['vm', stem] : ['vm']
}

/** The second token first: a recovery that finds the raw drop without the first writes both again, and neither counts before. */
async function writeRejections(
  s: Spool,
  raw: { id: string; folder: string; name: string },
  stat: FileStat,
  sha256: string,
  diagnostics: Diagnostic[],
  answers: readonly string[],
  kind = 'convert',
  secret = false,
): Promise<JobRecord[]> {
  const errors = diagnostics.filter((d) => d.severity === 'error')
  const message = `The drop ${raw.name} was rejected: ${errors.map((d) => (d.path && !d.message.startsWith(d.path) ? `${d.path}: ${d.message}` : d.message)).join(' ')}`
  const records = answers.map((answer, i) => {
    const id = i === 0 ? raw.id : nextUlid(raw.id)
    const record = recordOf(s, { ...raw, id }, stat, sha256, { kind } as Manifest, answer, diagnostics)
    record.rejected = { message: message.slice(0, 16_384) }
    record.quarantine = `${raw.id}--${clip(raw.name)}`
    if (secret) record.secret = true
    return record
  })
  for (const record of [...records].reverse()) await writeToken(s, raw.folder, record)
  return records
}

/** What lies in our intake folder and in those we took over: after a start, a takeover, an error, and now and then. */
async function recover(s: Spool, o: IntakeOptions): Promise<Accepted[]> {
  const accepted: Accepted[] = []
  await recoverFolder(s, o, join(s.layout.intake, me(s).id), true, accepted)
  s.intake.lastListed = s.clock.mono()
  return accepted
}

async function recoverFolder(
  s: Spool,
  o: IntakeOptions,
  folder: string,
  own: boolean,
  out: Accepted[],
): Promise<boolean> {
  // Sorted: a raw drop (id--name) is put away before its token (id.job) goes on.
  const files = (await s.fs.readdir(folder)).sort()
  let left = 0
  const has = new Set(files)
  const raws = new Set(files.map((f) => /^([0-9A-Z]{26})--/.exec(f)?.[1]).filter((x) => x !== undefined))
  for (const file of files) {
    const [, id, rest] = /^([0-9A-Z]{26})(--|\.kept--|\.job$|\.payload$)/.exec(file) ?? []
    if (file.startsWith('t-')) {
      if (!(await recoverFolder(s, o, join(folder, file), false, out))) left += 1
    } else if (!id) {
      if (!file.startsWith('.')) left += 1
    } else if (rest === '--') {
      left += 1
      await recoverRaw(s, folder, file, id, has)
    } else if (rest === '.kept--') {
      left += 1
      await recoverKept(s, o, folder, file, id)
    } else if (rest === '.payload') {
      if (!has.has(`${id}.job`)) out.push(...(await resumeBare(s, o, folder, id)))
    } else if (rest === '.job') {
      const base = baseUlid(id)
      if (base !== id && raws.has(base) && !has.has(`${base}.job`)) {
        left += 1
        continue // the second of two rejections: the raw drop writes both again
      }
      if (has.has(`${id}.payload`)) await removeFile(s, join(folder, `${id}.payload`)) // as completeBare() was about to
      await Promise.all([s.sync(folder), s.sync(s.layout.queue)])
      out.push(...(await finish(s, folder, [await readRecord(s, join(folder, file))])))
    }
  }
  if (own || left > 0) return own
  // A folder that we took over and that holds nothing but its dead owner's temporary files.
  for (const file of await namesIn(s, folder)) if (file.startsWith('.')) await removeFile(s, join(folder, file))
  await s.fs.rmdir(folder).catch(() => {})
  return true
}

async function recoverRaw(s: Spool, folder: string, file: string, id: string, has: ReadonlySet<string>): Promise<void> {
  const name = file.slice(28)
  if (!has.has(`${id}.job`)) {
    if (!s.intake.raw.has(id)) s.intake.raw.set(id, { id, folder, file, name, signature: '', since: s.clock.mono() })
    return
  }
  // The token is there: the raw drop is obsolete, and goes where its predecessor was about to put it.
  const record = await readRecord(s, join(folder, `${id}.job`))
  if (record.secret) {
    await removeFile(s, join(folder, file))
    await s.sync(folder)
    return
  }
  const to = record.rejected ? join(s.layout.rejected, file) : join(folder, `${id}.kept--${name}`)
  await move(s, join(folder, file), to)
  await Promise.all([s.sync(folder), s.sync(s.layout.rejected)])
}

async function recoverKept(s: Spool, o: IntakeOptions, folder: string, file: string, id: string): Promise<void> {
  if (s.intake.kept.has(id)) return
  const path = join(folder, file)
  const { bytes } = await s.fs.readFile(path, 64 << 20)
  const sha256 = createHash('sha256').update(bytes).digest('hex')
  const until = s.clock.mono() + o.settings.raw_keep_ms
  s.intake.kept.set(id, { path, folder, sha256, until, name: file.slice(file.indexOf('--') + 2) })
}

/** Links, folders, FIFOs, devices, and names that are not text: answered once, left where they are, never opened. */
async function answerOddities(
  s: Spool,
  o: IntakeOptions,
  entries: { name: string; kind: EntryKind }[],
): Promise<Accepted[]> {
  const out: Accepted[] = []
  const seen = new Set<string>()
  for (const e of entries) {
    if (IGNORED.test(e.name)) continue
    const wanted = MANIFEST.test(e.name) || (o.settings.bare_disks && isBareDisk(e.name))
    if (e.kind === 'file' && !e.name.includes('\ufffd')) {
      if (!wanted && !isBareDisk(e.name)) noteIgnored(s, e.name)
      continue
    }
    seen.add(e.name)
    if (s.intake.reported.has(e.name)) continue
    s.intake.reported.add(e.name)
    const marker = `.answered-${keyOf(e.name)}`
    if ((await namesIn(s, s.layout.rejected)).includes(marker)) continue
    const what = {
      file: 'a file whose name is not UTF-8',
      dir: 'a folder',
      link: 'a symbolic link',
      other: 'a FIFO, socket or device',
    }
    const why = `${e.name} is ${what[e.kind]}, and only regular files are taken. It was left where it is; remove it and drop the file itself.`
    const folder = join(s.layout.intake, me(s).id)
    const raw = { id: s.newId(), folder, name: e.name }
    const answers = MANIFEST.test(e.name) ? unnamed(e.name) : unnamed(e.name).slice(-1)
    const stat = await s.fs.lstat(join(s.layout.queue, e.name)).catch(() => undefined)
    if (!stat) continue
    const records = await writeRejections(s, raw, stat, '', [problem(why)], answers)
    await s.fs.writeFile(join(s.layout.rejected, marker), `${e.name}\n`, { mode: 0o640, sync: false })
    out.push(...(await finish(s, folder, records)))
  }
  for (const name of s.intake.reported) {
    if (seen.has(name) || entries.some((e) => e.name === name)) continue
    s.intake.reported.delete(name)
    await removeFile(s, join(s.layout.rejected, `.answered-${keyOf(name)}`))
  }
  return out
}

/** A file that is neither manifest nor disk (an export's .mf, .nvram, a note) is left alone, and said so once. */
function noteIgnored(s: Spool, name: string): void {
  if (s.intake.reported.has(name)) return
  s.intake.reported.add(name)
  s.log('intake.ignored', { file: name, reason: 'neither a manifest (.json .yaml .yml) nor a disk' })
}
