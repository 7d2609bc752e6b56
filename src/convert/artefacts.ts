/**
 * What finished steps left behind, recorded so that a later attempt need not do them again. A record is written after what it names is
 * durable, so a record means a whole artefact. Each file has a record of its own: an adoption that is cut off between two files
 * is gone on with by the attempt after it.
 */
import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { identityOf } from './identity.ts'
import { copySparsely, type CopyHooks } from './sparse-copy.ts'
import type { CopyHow, Earlier, Step } from './types.ts'

/** The steps whose artefacts are recorded, in their order. */
const STEPS: readonly Step[] = ['unpack', 'copy', 'guest-info', 'fix', 'merge', 'define']

export interface StepRecord {
  schema: 1
  step: Step
  /** a file's base name, or what the step made of all disks */
  name: string
  /** names everything that decides what the artefact contains; another key means another artefact */
  key: string
  /** begun in place and not finished: the file is neither what it was nor what it will be */
  started?: true
  /** relative to the attempt's folder; where the file is made and where it goes at the end */
  file?: string
  final?: string
  size_bytes?: number
  /** see identity.ts */
  identity?: string
  duration_ms?: number
  result?: Record<string, unknown>
}

/** The record of a finished copy of one disk in one format. */
export interface CopyRecord {
  schema: 1
  step: 'copy'
  disk_id: string
  file: string
  final: string
  size_bytes: number
  virtual_size_bytes: number
  key: string
  checksum_verified: boolean
  copy_ms: number
  how: CopyHow
  identity?: string
}

type AnyRecord = StepRecord | CopyRecord
const FOLDER = 'artefacts'

/** fsyncs the file and its folder, then records it. */
export async function recordCopy(scratch: string, r: CopyRecord): Promise<void> {
  await recordFile(scratch, r)
}

/** fsyncs the record's file, where it has one, and records it with its identity. */
export async function recordStep(scratch: string, r: StepRecord): Promise<void> {
  if (r.file === undefined || r.started) await writeRecord(scratch, r)
  else await recordFile(scratch, r)
}

async function recordFile(scratch: string, r: AnyRecord): Promise<void> {
  const path = join(scratch, r.file!)
  await syncFile(path)
  await syncFile(dirname(path))
  await writeRecord(scratch, {
    ...r,
    size_bytes: (await stat(path)).size,
    identity: await identityOf(path),
  } as AnyRecord)
}

/** Writes a record as it stands: whole and durable, or not at all. */
async function writeRecord(scratch: string, r: AnyRecord): Promise<void> {
  const folder = join(scratch, FOLDER)
  await mkdir(folder, { recursive: true })
  const path = join(folder, fileName(r.step, nameOf(r)))
  const temp = `${path}.tmp`
  const h = await open(temp, 'w', 0o600)
  try {
    await h.writeFile(JSON.stringify(r, null, 2))
    await h.sync()
  } finally {
    await h.close()
  }
  await rename(temp, path)
  await syncFile(folder)
}

export async function readStep(dir: string, step: Step, name: string): Promise<StepRecord | undefined> {
  return read<StepRecord>(dir, step, name)
}

async function read<R extends AnyRecord>(dir: string, step: Step, name: string): Promise<R | undefined> {
  try {
    const r = JSON.parse(await readFile(join(dir, FOLDER, fileName(step, name)), 'utf8')) as R
    return r.schema === 1 && r.step === step ? r : undefined
  } catch {
    return undefined
  }
}

/** Whether what this step made in that attempt may be used at all. */
function allows(e: Earlier, step: Step): boolean {
  return e.before === undefined || STEPS.indexOf(step) < STEPS.indexOf(e.before)
}

type How = 'moved' | 'copied'

/**
 * Takes over a copy that an earlier attempt finished: moves it when that attempt is dead, else clones or copies it, so that nobody
 * else can write into what is ours. Undefined when there is none.
 *
 * A merge writes into the copy in place. So beside each copy its merge record is looked at: finished under the same fix means that the copy
 * is the merged file; begun means that it is neither, and of use only to whoever owns it alone and merges again.
 */
export async function adoptCopy(
  scratch: string,
  earlier: readonly Earlier[],
  want: {
    disk_id: string
    file: string
    final: string
    key: string
    /** key of the fix that is planned; without one a file that was merged is of no use */
    fix_key?: string | undefined
  },
  hooks?: CopyHooks,
): Promise<{ record: CopyRecord; from: string; how: How } | undefined> {
  const name = basename(want.file)
  for (const e of earlier) {
    if (!allows(e, 'copy')) continue
    const record = await read<CopyRecord>(e.dir, 'copy', name)
    if (record?.key !== want.key) continue
    const merge = await readStep(e.dir, 'merge', name)
    const own: CopyRecord = { ...record, file: want.file, final: want.final }
    const state = merge && usableMerge(merge, e, want.fix_key)
    if (merge && state === undefined) {
      const before = merge.result?.before
      if (typeof before !== 'string') continue
      const how = await take(scratch, e, { ...own, from: [before] }, [own], hooks)
      if (how) return { record: own, from: e.dir, how }
      continue
    }
    const places = [record.file, record.final]
    if (merge) {
      const ownMerge: StepRecord = { ...merge, file: want.file, final: want.final }
      const as = state === 'begun' ? { file: want.file, from: places } : { ...ownMerge, from: places }
      const how = await take(scratch, e, as as Taken, [own, ownMerge], hooks)
      if (how) return { record: own, from: e.dir, how }
      continue
    }
    const how = await take(scratch, e, { ...own, from: places }, [own], hooks, async () => {
      // it began to be merged while we copied: the copy may be torn
      return (await readStep(e.dir, 'merge', name)) === undefined
    })
    if (how) return { record: own, from: e.dir, how }
  }
  return undefined
}

function usableMerge(merge: StepRecord, e: Earlier, fixKey: string | undefined): 'finished' | 'begun' | undefined {
  if (fixKey === undefined || merge.key !== fixKey) return undefined
  if (!merge.started) return allows(e, 'merge') ? 'finished' : undefined
  return e.dead && allows(e, 'fix') ? 'begun' : undefined
}

/** Takes over any other step's artefact, the latest that matches. */
export async function adoptStep(
  scratch: string,
  earlier: readonly Earlier[],
  want: { step: Step; name: string; key: string },
  hooks?: CopyHooks,
): Promise<{ record: StepRecord; from: string; how: How } | undefined> {
  for (const e of earlier) {
    if (!allows(e, want.step)) continue
    const record = await readStep(e.dir, want.step, want.name)
    if (record?.key !== want.key || record.started) continue
    if (record.file === undefined) {
      await writeRecord(scratch, record)
      return { record, from: e.dir, how: 'copied' }
    }
    const how = await take(
      scratch,
      e,
      { ...record, file: record.file, from: [record.file, record.final] },
      [record],
      hooks,
    )
    if (how) return { record, from: e.dir, how }
  }
  return undefined
}

interface Taken {
  file: string
  from: readonly (string | undefined)[]
  size_bytes?: number
  identity?: string
}

/** Moves or copies one file and writes the records that go with it; undefined when it is not (or no longer) what was recorded. */
async function take(
  scratch: string,
  e: Earlier,
  t: Taken,
  records: readonly AnyRecord[],
  hooks: CopyHooks | undefined,
  stillWhole?: () => Promise<boolean>,
): Promise<How | undefined> {
  const source = await existing(e.dir, t)
  if (source === undefined) return undefined
  const target = join(scratch, t.file)
  await mkdir(dirname(target), { recursive: true })
  const forget = async (): Promise<void> => {
    for (const r of records) await rm(join(scratch, FOLDER, fileName(r.step, nameOf(r))), { force: true })
  }
  if (e.dead) {
    // the records first: after a crash in between the next attempt finds the file where it was, by the old records
    for (const r of records) await writeRecord(scratch, r)
    try {
      await rename(source, target)
    } catch (error) {
      await forget()
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined // another retry of the same job was faster
      throw error
    }
    await syncFile(dirname(target))
    return 'moved'
  }
  try {
    await copySparsely(source, target, hooks)
  } catch (error) {
    await rm(target, { force: true })
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined // its owner moved it meanwhile
    throw error
  }
  const same =
    t.size_bytes === undefined ||
    ((await stat(target)).size === t.size_bytes &&
      (t.identity === undefined || (await identityOf(target)) === t.identity))
  if (!same || (stillWhole && !(await stillWhole()))) {
    await rm(target, { force: true })
    return undefined
  }
  await syncFile(target)
  await syncFile(dirname(target))
  for (const r of records) await writeRecord(scratch, r)
  return 'copied'
}

async function existing(dir: string, t: Taken): Promise<string | undefined> {
  for (const name of t.from) {
    if (name === undefined) continue
    const path = join(dir, name)
    const s = await stat(path).catch(() => undefined)
    if (!s?.isFile() || (t.size_bytes !== undefined && s.size !== t.size_bytes)) continue
    if (t.identity === undefined || (await identityOf(path).catch(() => '')) === t.identity) return path
  }
  return undefined
}

/** Which steps of an attempt are finished, for whoever decides whether its folder is worth keeping; and the bytes that takes. */
export async function finishedWork(dir: string): Promise<{ steps: Step[]; bytes: number }> {
  const files = await readdir(join(dir, FOLDER)).catch(() => [] as string[])
  const steps = new Set<Step>()
  let bytes = 0
  for (const f of files) {
    const step = STEPS.find((s) => f.startsWith(`${s}-`))
    if (!step || !f.endsWith('.json')) continue
    const name = f.slice(step.length + 1, -'.json'.length)
    const r = await read<StepRecord>(dir, step, name)
    if (!r || r.started || step === 'define') continue
    if (r.file !== undefined) {
      const s = await stat(join(dir, r.file)).catch(() => undefined)
      if (!s) continue
      if (step !== 'merge') bytes += s.blocks * 512
    }
    if (step !== 'fix' || r.file === undefined) steps.add(step) // the summary says that it was finished
  }
  return { steps: STEPS.filter((s) => steps.has(s)), bytes }
}

function nameOf(r: AnyRecord): string {
  return r.step === 'copy' ? basename(r.file!) : (r as StepRecord).name
}

function fileName(step: Step, name: string): string {
  return `${step}-${name}.json`
}

/** fsync of a file or folder. */
export async function syncFile(path: string): Promise<void> {
  const h = await open(path, 'r')
  try {
    await h.sync()
  } finally {
    await h.close()
  }
}
