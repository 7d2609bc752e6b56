// Cuts a worker process off at every system call of a scene, or lets that call fail, then recovers and checks the rules.
//
// strace is attached only when the worker is about to act, so its counters begin at zero there, and to one thread only:
// with UV_THREADPOOL_SIZE=1 all file system work is on that one. It counts per system call; sweeping every call of the set
// over every count covers every index.
import { type ChildProcess, spawn } from 'node:child_process'
import { cp, readdir, readFile, rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { openSpool, startOwner, stopOwner } from '../../src/spool/index.ts'
import { tempDir } from '../support/temp.ts'
import { layout, recover, type Scene, scenes, violations } from './scene.ts'

/** Calls that change something: between two of them a kill leaves the same disk. */
export const changing = [
  'rename',
  'renameat2',
  'unlink',
  'rmdir',
  'mkdir',
  'link',
  'fsync',
  'fdatasync',
  'write',
  'pwrite64',
  'ftruncate',
] as const
/** All calls by which the spool touches the file system. */
export const everything = [
  ...changing,
  'openat',
  'close',
  'read',
  'pread64',
  'getdents64',
  'statx',
  'newfstatat',
  'fstat',
] as const

export interface SweepOptions {
  scene: string
  calls: readonly string[]
  /** KILL at the call, or let the call fail with this errno (it does nothing then) */
  effect: 'KILL' | 'EIO' | 'ENOSPC' | 'ESTALE'
  /** take every n-th index only */
  stride?: number
  /** where a stride begins, so that short forms differ from scene to scene */
  offset?: number
  /** points at work at the same time */
  parallel?: number
}

export interface SweepReport {
  scene: string
  effect: string
  /** indices of the recording run */
  indices: number
  /** points that were run, and how many of them were hit */
  points: number
  hit: number
  /** points of a fault sweep at which the worker reported an error */
  reported: number
  /** points of a fault sweep after which the worker was content */
  silent: string[]
  violations: { call: string; index: number; wrong: string[] }[]
}

const node = resolve(import.meta.dirname, '../../node_modules/.bin/node')
const worker = join(import.meta.dirname, 'worker.process.ts')

export async function sweep(o: SweepOptions): Promise<SweepReport> {
  await using dir = await tempDir()
  const scene = scenes[o.scene]!
  const template = join(dir.path, 'template')
  await prepare(template, scene)

  // Which calls are made, and the how many-th of its kind is each?
  const all: { call: string; index: number }[] = []
  {
    const root = join(dir.path, 'count')
    await cp(template, root, { recursive: true })
    const trace = join(dir.path, 'trace')
    await run(root, o.scene, ['-y', '-e', `trace=${o.calls.join(',')}`, '-o', trace])
    const made = new Map<string, number>()
    for (const [, call, rest] of (await readFile(trace, 'utf8')).matchAll(/^(\w+)\((.*)/gm)) {
      const index = (made.get(call!) ?? 0) + 1
      made.set(call!, index)
      // Waking the event loop counts for strace and touches no file.
      if (!/^\d+<(anon_inode|pipe|socket):/.test(rest!)) all.push({ call: call!, index })
    }
    await rm(root, { recursive: true })
  }
  const stride = o.stride ?? 1
  const points = all.filter((_, i) => i % stride === (o.offset ?? 0) % stride)
  const report: SweepReport = {
    scene: o.scene,
    effect: o.effect,
    indices: all.length,
    points: points.length,
    hit: 0,
    reported: 0,
    silent: [],
    violations: [],
  }
  let next = 0
  const lane = async () => {
    for (let i = next++; i < points.length; i = next++) {
      const { call, index } = points[i]!
      const root = join(dir.path, `p${i}`)
      await cp(template, root, { recursive: true })
      const what = o.effect === 'KILL' ? 'signal=KILL' : `error=${o.effect}`
      const seen = await run(root, o.scene, [
        '-e',
        `trace=${call}`,
        '-e',
        `inject=${call}:${what}:when=${index}`,
        '-o',
        '/dev/null',
      ])
      if (seen.killed || (o.effect !== 'KILL' && seen.finished)) report.hit++
      if (seen.errors > 0) report.reported++
      else if (!seen.killed) report.silent.push(`${call} ${index}`)
      const wrong = seen.killed || seen.finished ? [] : [`The worker ended by itself: ${seen.output}`]
      try {
        await recover(root)
        wrong.push(...(await violations(root, scene.expect)))
      } catch (error) {
        wrong.push(`Recovery failed: ${(error as Error).stack}`)
      }
      if (wrong.length > 0) report.violations.push({ call, index, wrong })
      await rm(root, { recursive: true, force: true })
    }
  }
  await Promise.all(Array.from({ length: o.parallel ?? 2 }, lane))
  return report
}

async function prepare(root: string, scene: Scene): Promise<void> {
  const s = await openSpool({ layout: layout(root), create: true })
  await startOwner(s)
  await scene.prepare?.(s)
  await stopOwner(s)
}

interface Seen {
  killed: boolean
  finished: boolean
  errors: number
  output: string
}

async function run(root: string, scene: string, strace: string[]): Promise<Seen> {
  const child = spawn(node, [worker, root, scene], {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...process.env, UV_THREADPOOL_SIZE: '1', UV_USE_IO_URING: '0', NODE_COMPILE_CACHE: join(root, '../cache') },
  })
  const output = collect(child)
  const ended = new Promise<NodeJS.Signals | null>((resolve) => child.on('close', (_code, signal) => resolve(signal)))
  child.stdin.on('error', () => {}) // it may be dead already
  await Promise.race([output.has('ready\n'), ended])
  const thread = await poolThread(child.pid!)
  const tracer = spawn('strace', ['-p', thread, ...strace], { stdio: ['ignore', 'ignore', 'pipe'] })
  const said = collect(tracer)
  const tracerEnded = new Promise<void>((resolve) => tracer.on('close', () => resolve()))
  await Promise.race([said.has('attached'), tracerEnded])
  if (!said.text().includes('attached')) {
    child.kill('SIGKILL')
    await ended
    throw new Error(`strace could not attach to the worker: ${said.text()}${output.text()}`)
  }
  child.stdin.write('go\n')
  const guard = setTimeout(() => child.kill('SIGKILL'), 30_000)
  const signal = await ended
  clearTimeout(guard)
  await tracerEnded
  const text = output.text()
  return {
    // libuv aborts when it cannot wake its own event loop: a death like any other.
    killed: signal === 'SIGKILL' || signal === 'SIGABRT',
    finished: text.includes('\ndone\n'),
    errors: text.match(/^error /gm)?.length ?? 0,
    output: text,
  }
}

/** The one thread on which libuv does a process's file system work. */
async function poolThread(pid: number): Promise<string> {
  const named: string[] = []
  for (const thread of await readdir(`/proc/${pid}/task`)) {
    const name = await readFile(`/proc/${pid}/task/${thread}/comm`, 'utf8')
    if (name.trim() === 'libuv-worker') named.push(thread)
  }
  if (named.length !== 1)
    throw new Error(`The worker ${pid} has ${named.length} libuv threads, but the sweep needs exactly one.`)
  return named[0]!
}

function collect(child: ChildProcess): { text(): string; has(part: string): Promise<void> } {
  let text = ''
  const waiting: (() => void)[] = []
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on('data', (d: Buffer) => {
      text += d
      for (const check of waiting) check()
    })
  }
  return {
    text: () => text,
    has: (part) =>
      new Promise((resolve) => {
        const check = () => {
          if (text.includes(part)) resolve()
        }
        waiting.push(check)
        check()
      }),
  }
}

/** One line per sweep, for people. */
export function summary(r: SweepReport): string {
  const reported = r.effect === 'KILL' ? '' : `, ${r.reported} reported (not: ${r.silent.join(', ') || 'none'})`
  return (
    `${r.effect.padEnd(7)}${r.scene.padEnd(10)} ${String(r.points).padStart(4)} points of ${r.indices} indices, ` +
    `${r.hit} hit${reported}, ${r.violations.length} violations` +
    r.violations.map((v) => `\n    ${v.call} ${v.index}: ${v.wrong.join('\n      ')}`).join('')
  )
}
