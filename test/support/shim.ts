// Commands under real shims in a private folder; at the end of the block nothing of them is left running.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import {
  type ShimExit,
  type ShimProcess,
  type ShimSpec,
  shimState,
  startShim,
  stopShim,
  waitShim,
} from '../../src/process/index.ts'
import { processesMarked, shimsBelow } from './leaks.ts'
import { tempDir } from './temp.ts'
import { until } from './wait.ts'

export interface ShimBed extends AsyncDisposable {
  dir: string
  /** what a command is started with; its folder and log are its own */
  spec(argv: readonly string[], more?: Partial<ShimSpec>): ShimSpec
  /** starts it, and fails when it does not run */
  start(argv: readonly string[], more?: Partial<ShimSpec>): Promise<{ process: ShimProcess; dir: string; log: string }>
  /** starts it, waits for its end, and says how it ended, also when it could not be started */
  run(argv: readonly string[], more?: Partial<ShimSpec>): Promise<{ exit: ShimExit; dir: string; log: string }>
  /** processes of this bed's commands, whoever is their parent */
  living(): number[]
}

export async function shimBed(): Promise<ShimBed> {
  const temp = await tempDir()
  const marker = `shim-${temp.path}`
  const folders: string[] = []
  const spec: ShimBed['spec'] = (argv, more = {}) => {
    const dir = join(temp.path, `c${folders.length}`)
    folders.push(dir)
    return {
      dir,
      argv,
      cwd: temp.path,
      log: { path: join(temp.path, `log-${folders.length - 1}`), max_bytes: 1e9, max_age_ms: 0, total_bytes: 4e9 },
      kill_grace_ms: 500,
      fsync: false,
      ...more,
      env: { VMSPOOL_TEST_BED: marker, ...more.env },
    }
  }
  const living = () => processesMarked(`VMSPOOL_TEST_BED=${marker}`).map((p) => p.pid)
  return {
    dir: temp.path,
    spec,
    living,
    async start(argv, more) {
      const s = spec(argv, more)
      const began = await startShim(s)
      if ('failed' in began) throw new Error(`${argv[0]} could not be started: ${JSON.stringify(began.failed)}`)
      return { process: began.process, dir: s.dir, log: s.log.path }
    },
    async run(argv, more) {
      const s = spec(argv, more)
      const began = await startShim(s)
      const ended = 'failed' in began ? { state: 'ended' as const, exit: began.failed } : await waitShim(s.dir)
      if (ended.state !== 'ended') throw new Error(`${argv[0]} is ${JSON.stringify(ended)}, not ended.`)
      return { exit: ended.exit, dir: s.dir, log: s.log.path }
    },
    async [Symbol.asyncDispose]() {
      for (const dir of folders) {
        const { state } = shimState(dir)
        if (state === 'running' || state === 'orphaned') await stopShim(dir, { by: 'the-bed', graceMs: 0, force: true })
      }
      await until('the processes of this bed are gone', () => {
        for (const pid of living()) {
          try {
            process.kill(pid, 'SIGKILL')
          } catch {
            // ended by itself
          }
        }
        return living().length === 0 && shimsBelow(temp.path).length === 0
      })
      await temp[Symbol.asyncDispose]()
    },
  }
}

/** All bytes of a log that was rotated, oldest first. */
export function wholeLog(path: string): Buffer {
  const [dir, name] = [path.slice(0, path.lastIndexOf('/')), path.slice(path.lastIndexOf('/') + 1)]
  const parts = readdirSync(dir)
    .map((file) => ({ file, part: new RegExp(`^${name}\\.(\\d+)(?:\\.gz)?$`).exec(file)?.[1] }))
    .filter((f) => f.part !== undefined)
    .sort((a, b) => Number(a.part) - Number(b.part))
  const bytes = parts.map(({ file }) => {
    const content = readFileSync(join(dir, file))
    return file.endsWith('.gz') ? gunzipSync(content) : content
  })
  return Buffer.concat([...bytes, readFileSync(path)])
}

/** What each stream wrote, put together as the format says: contents, with a newline behind each F. Fails at a line without a mark. */
export function streamsOf(log: Buffer): Record<'stdout' | 'stderr' | 'agent', Buffer> {
  const parts: Record<string, Buffer[]> = { stdout: [], stderr: [], agent: [] }
  const newline = Buffer.from('\n')
  for (let at = 0; at < log.length; ) {
    const found = log.indexOf(10, at)
    if (found < 0) throw new Error(`The log ends in the middle of a line: ${log.toString('latin1', at, at + 80)}`)
    const mark = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (stdout|stderr|agent) ([FP]) /.exec(
      log.toString('latin1', at, Math.min(found, at + 40)),
    )
    if (!mark) throw new Error(`A line of the log has no mark: ${log.toString('latin1', at, Math.min(found, at + 80))}`)
    parts[mark[1]!]!.push(log.subarray(at + mark[0].length, found))
    if (mark[2] === 'F') parts[mark[1]!]!.push(newline)
    at = found + 1
  }
  const of = (name: string) => Buffer.concat(parts[name]!)
  return { stdout: of('stdout'), stderr: of('stderr'), agent: of('agent') }
}

/**
 * Highest resident memory of a process so far, in MiB.
 * @throws when it is gone, or a zombie, which has no memory any more
 */
export function peakMiB(pid: number): number {
  const kib = /VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
  if (kib === undefined) throw new Error(`Process ${pid} has ended.`)
  return Number(kib) / 1024
}
