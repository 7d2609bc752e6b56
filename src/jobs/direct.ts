import { randomBytes } from 'node:crypto'
import { access, lstat, mkdir, mkdtemp, readdir, readFile, realpath, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import type { Config } from '../config/index.ts'
import { syncFile } from '../convert/index.ts'
import { answerNameOf, type ConvertManifest } from '../manifest/index.ts'
import { identify, isAlive, isLocal, type ProcessIdentity } from '../process/index.ts'
import type { Vms } from '../vm/index.ts'
import { convert } from './convert.ts'
import {
  COMMAND_LINE,
  type EarlierAttempt,
  type JobContext,
  JobError,
  type JobOutcome,
  type JobProgress,
} from './types.ts'

/** A conversion without an agent and without a spool. */
export interface DirectOptions {
  manifest: ConvertManifest
  /** made when missing; the results lie here, and while it runs one hidden folder */
  outputDir: string
  /** default: the manifest's answer name */
  name?: string
  /** what a relative `local_path` is relative to; default: the current folder */
  baseDir?: string
  /** replace results of that name; default: refuse */
  overwrite?: boolean
  config: Config
  /** for a manifest that asks for the VM, too; default: it is not defined, with a warning. Not closed here */
  vms?: () => Promise<Vms>
  signal?: AbortSignal
  progress?(p: JobProgress): void
  log?(stream: 'stdout' | 'stderr' | 'agent', text: string | Buffer): void
  spawned?(id: ProcessIdentity): void
}

export interface DirectResult {
  outcome: JobOutcome
  /** absolute paths of what was published, the boot disk last */
  files: string[]
}

/**
 * Runs the very handler that an agent runs, in a private folder inside the output folder, and moves the results to their names at the end,
 * the boot disk last. After a failure or an abort nothing is left. What a killed run of the same name had copied is taken over.
 * @throws {JobError}
 */
export async function convertDirectly(o: DirectOptions): Promise<DirectResult> {
  const name = o.name ?? answerNameOf(o.manifest) ?? 'vm'
  const manifest = await ownPaths(o.manifest, o.baseDir ?? process.cwd())
  const signal = o.signal ?? new AbortController().signal
  const dry = manifest.options?.dry_run === true
  const out = resolve(o.outputDir)
  if (!dry) {
    await mkdir(out, { recursive: true })
    if (!o.overwrite) await refuseExisting(out, name)
  }
  const work = dry
    ? await mkdtemp(join(tmpdir(), 'vmspool-dry-run-'))
    : join(out, `${workPrefix(name)}${randomBytes(6).toString('hex')}`)
  const answerDir = dry ? await nearestFolder(out) : join(work, 'answer')
  try {
    const earlier = dry ? [] : await leftOver(out, name)
    // a killed run's VM belongs to this one, which goes on with it
    const id = earlier[0]?.job ?? `direct-${randomBytes(6).toString('hex')}`
    if (!dry) await begin(work, answerDir, id)
    const context: JobContext<ConvertManifest> = {
      id,
      answer: name,
      epoch: earlier.length + 1,
      owner: `direct-${process.pid}`,
      manifest,
      drop: {
        file: COMMAND_LINE,
        uid: process.geteuid?.() ?? 0,
        gid: process.getegid?.() ?? 0,
        at: new Date().toISOString(),
      },
      attemptDir: work,
      answerDir,
      publicDir: out,
      earlierAttempts: earlier,
      signal,
      progress: o.progress ?? (() => undefined),
      log: o.log ?? (() => undefined),
      spawned: o.spawned ?? (() => undefined),
      config: o.config,
      ...(o.vms && !dry ? { vms: o.vms, define_may_fail: true } : {}),
    }
    const outcome = await convert.run(manifest, context)
    if (dry) return { outcome, files: [] }
    signal.throwIfAborted()
    const files = await publish(answerDir, out, name, work)
    for (const e of earlier) await rm(e.dir, { recursive: true, force: true })
    return { outcome, files }
  } finally {
    await rm(work, { recursive: true, force: true })
  }
}

/** The user reads his own files, so links in a path that he typed are his business: they are resolved here. */
async function ownPaths(m: ConvertManifest, base: string): Promise<ConvertManifest> {
  const disks = await Promise.all(
    m.disks.map(async (d) => {
      const path = resolve(base, d.local_path)
      return { ...d, local_path: await realpath(path).catch(() => path) }
    }),
  )
  const report = m.options?.dry_run ? { report: { enabled: false } } : {}
  return { ...m, disks, options: { ...m.options, ...report } } as ConvertManifest
}

function workPrefix(name: string): string {
  return `.vmspool-${Buffer.from(name).toString('hex').slice(0, 64)}-`
}

async function begin(work: string, answerDir: string, job: string): Promise<void> {
  await mkdir(work, { mode: 0o700 })
  await mkdir(answerDir)
  await writeFile(join(work, 'owner.json'), JSON.stringify({ ...identify(process.pid), job }))
}

/** Folders of earlier runs of that name whose process is gone. One on another host is left alone: nothing is known of it. */
async function leftOver(out: string, name: string): Promise<(EarlierAttempt & { job?: string })[]> {
  const found: (EarlierAttempt & { job?: string })[] = []
  for (const entry of await readdir(out)) {
    if (!entry.startsWith(workPrefix(name))) continue
    const dir = join(out, entry)
    const id = await readFile(join(dir, 'owner.json'), 'utf8').then(
      (t) => JSON.parse(t) as ProcessIdentity & { job?: string },
      () => undefined,
    )
    if (!id || !isLocal(id) || isAlive(id)) continue
    found.push({
      dir,
      epoch: found.length + 1,
      owner: `direct-${id.pid}`,
      dead: true,
      ...(id.job === undefined ? {} : { job: id.job }),
    })
  }
  return found
}

async function refuseExisting(out: string, name: string): Promise<void> {
  for (const suffix of SUFFIXES) {
    const path = join(out, name + suffix)
    if (!(await exists(path))) continue
    throw new JobError(`${JSON.stringify(path)} exists already and is not overwritten.`, {
      code: 'output-exists',
      transient: false,
      hint: 'Choose another name or folder, or move the old result away.',
    })
  }
}

const SUFFIXES = ['.qcow2', '.raw', '.vdi', '.disks', '.xml', '.report.json']

async function publish(answerDir: string, out: string, name: string, work: string): Promise<string[]> {
  const old = join(work, 'old')
  await mkdir(old)
  // whoever waits for the boot disk must not find the old one beside new data disks: it goes first and comes last
  for (const suffix of SUFFIXES) {
    if (await exists(join(out, name + suffix))) await rename(join(out, name + suffix), join(old, name + suffix))
  }
  for (const e of await readdir(answerDir, { recursive: true, withFileTypes: true }))
    await syncFile(join(e.parentPath, e.name))
  await syncFile(answerDir)
  const rank = (f: string) => (f === `${name}.qcow2` ? 2 : f === `${name}.raw` || f === `${name}.vdi` ? 1 : 0)
  const names = (await readdir(answerDir)).sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1))
  for (const f of names) {
    await rename(join(answerDir, f), join(out, f))
    // each in turn, so that the boot disk's name cannot be durable before what it belongs to
    await syncFile(out)
  }
  return names.map((f) => join(out, f))
}

async function exists(path: string): Promise<boolean> {
  return lstat(path).then(
    () => true,
    () => false,
  )
}

async function nearestFolder(path: string): Promise<string> {
  let at = path
  while (
    !(await access(at).then(
      () => true,
      () => false,
    ))
  )
    at = dirname(at)
  return at
}
