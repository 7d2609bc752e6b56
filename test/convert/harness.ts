/** A made-up job context over private folders, and real images made by qemu-img. */
import { execFileSync } from 'node:child_process'
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { convert } from '../../src/jobs/convert.ts'
import { reportSchema } from '../../src/jobs/report-schema.ts'
import type { JobContext, JobOutcome, JobProgress } from '../../src/jobs/types.ts'
import type { ConvertManifest } from '../../src/manifest/index.ts'
import type { ProcessIdentity } from '../../src/process/index.ts'

export function tempFolder(at = tmpdir()): string {
  const dir = mkdtempSync(join(at, 'vmspool-convert-'))
  chmodSync(dir, 0o755)
  return dir
}

export interface Bench {
  dir: string
  attemptDir: string
  answerDir: string
  progress: JobProgress[]
  logs: string[]
  spawned: ProcessIdentity[]
  abort: AbortController
  run(manifest: Record<string, unknown>, o?: Partial<JobContext<ConvertManifest>>): Promise<JobOutcome>
  answers(): string[]
  // biome-ignore lint/suspicious/noExplicitAny: the report is looked at in many places, as a reader of it would
  report(): Record<string, any>
  close(): void
}

/** A fresh attempt folder below `dir` (or a folder of its own). */
export function bench(o: { dir?: string; epoch?: number; config?: Record<string, unknown> } = {}): Bench {
  const own = o.dir === undefined
  const dir = o.dir ?? tempFolder()
  const epoch = o.epoch ?? 1
  const attemptDir = join(dir, '.work', `${epoch}-me`)
  const answerDir = join(attemptDir, 'answer')
  mkdirSync(answerDir, { recursive: true })
  const b: Bench = {
    dir,
    attemptDir,
    answerDir,
    progress: [],
    logs: [],
    spawned: [],
    abort: new AbortController(),
    run: (manifest, more) => {
      const m = { kind: 'convert', manifest_version: '1.0', priority: 5, ...manifest } as unknown as ConvertManifest
      const context: JobContext<ConvertManifest> = {
        id: '01HTEST',
        answer: 'vm',
        epoch,
        owner: 'me',
        manifest: m,
        drop: { file: 'job.json', uid: 0, gid: 0, at: new Date().toISOString() },
        attemptDir,
        answerDir,
        earlierAttempts: [],
        signal: b.abort.signal,
        progress: (p) => b.progress.push(p),
        log: (_s, t) => b.logs.push(t.toString()),
        spawned: (id) => b.spawned.push(id),
        config: (o.config ?? {}) as never,
        ...more,
      }
      return convert.run(m, context)
    },
    answers: () => list(answerDir),
    // whatever a test looks at in it, it must be what the schema says
    report: () => reportSchema.parse(JSON.parse(readFileSync(join(answerDir, 'vm.report.json'), 'utf8'))),
    close: () => {
      if (own) rmSync(dir, { recursive: true, force: true })
    },
  }
  return b
}

/** Relative paths of all files below a folder, sorted. */
export function list(dir: string): string[] {
  return readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((e) => !e.isDirectory())
    .map((e) => join(e.parentPath, e.name).slice(dir.length + 1))
    .sort()
}

export function qemuImg(...args: string[]): string {
  return execFileSync('qemu-img', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
}

/** Throws unless both images hold the same bytes. */
export function assertSame(a: string, aFormat: string, b: string, bFormat: string): void {
  qemuImg('compare', '-f', aFormat, '-F', bFormat, a, b)
}

export const disk = (path: string, format: string, more: Record<string, unknown> = {}) => ({
  id: 'disk-0',
  source_format: format,
  local_path: path,
  ...more,
})
