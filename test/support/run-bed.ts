// A private spool for `vmspool run`, through the real command line; at the end of the block nothing of it runs.
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { cli, type Ran, type RunOptions } from '../cli/run.ts'
import { shimState, stopShim } from '../../src/process/index.ts'
import { type Layout, layoutOf } from '../../src/spool/layout.ts'
import type { JobStatus } from '../../src/spool/index.ts'
import { tempDir } from './temp.ts'

export interface RunBed extends AsyncDisposable {
  dir: string
  layout: Layout
  env: NodeJS.ProcessEnv
  /** any command of vmspool */
  v(args: readonly string[], o?: RunOptions): Promise<Ran>
  /** `vmspool run` of one command; @returns its id */
  start(args: readonly string[], o?: RunOptions): Promise<string>
  status(job: string): Promise<JobStatus>
  /** the log's content, without its marks */
  log(job: string): Promise<string>
}

export async function runBed(): Promise<RunBed> {
  const temp = await tempDir()
  const dir = temp.path
  const layout = layoutOf({ root: join(dir, 'spool'), instance: 'default' })
  const env = { VMSPOOL_ROOT: layout.root, VMSPOOL_HISTORY_PATH: join(dir, 'history.db') }
  const v = (args: readonly string[], o: RunOptions = {}): Promise<Ran> =>
    cli(args, { cwd: dir, ...o, env: { ...env, ...o.env } })
  return {
    dir,
    layout,
    env,
    v,
    async start(args, o) {
      const r = await v(['run', '--no-fsync', '-o', 'name', ...args], o)
      if (r.code !== 0) throw new Error(`vmspool run ended with ${r.code}: ${r.err}`)
      return r.out.trim()
    },
    async status(job) {
      const r = await v(['status', job, '-o', 'json'])
      if (r.code !== 0) throw new Error(r.err)
      return JSON.parse(r.out)
    },
    async log(job) {
      const r = await v(['logs', job])
      return r.out
    },
    async [Symbol.asyncDispose]() {
      const folders = await readdir(layout.outputJobs).catch(() => [])
      for (const id of folders) {
        const folder = join(layout.outputJobs, id, 'run')
        const { state } = shimState(folder)
        if (state === 'running' || state === 'orphaned') await stopShim(folder, { by: 'test', graceMs: 0, force: true })
      }
      await temp[Symbol.asyncDispose]()
    },
  }
}

/** Every file of a folder, as one text. */
export async function everything(dir: string): Promise<string> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true })
  const files = entries.filter((e) => e.isFile()).map((e) => join(e.parentPath, e.name))
  return (await Promise.all(files.map((f) => readFile(f, 'latin1')))).join('\n')
}
