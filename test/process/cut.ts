// A shim that is killed at one of its system calls, and whether what is on record is still true. In the style of test/crash.
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { prepareRun } from '../../src/client/run.ts'
import type { RunPlace } from '../../src/client/run-place.ts'
import { fenceShim, shimState, startShim, stopShim } from '../../src/process/index.ts'
import { environment, orders, perl, program } from '../../src/process/shim-orders.ts'
import { layoutOf, openSpool, parseJobName, type Spool } from '../../src/spool/index.ts'
import { settleStarted } from '../../src/spool/settle.ts'
import { shimsBelow } from '../support/leaks.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

/** Calls that change what others see: between two of them a kill leaves the same. */
export const changing = [
  'write',
  'rename',
  'mknodat',
  'unlink',
  'fsync',
  'fork',
  'clone',
  'prctl',
  'wait4',
  'waitid',
  'close_range',
]

export interface CutReport {
  points: number
  /** how many of them were reached */
  killed: number
  /** how it stood with the command then */
  never: number
  known: number
  unseen: number
  violations: string[]
}

interface Scene extends AsyncDisposable {
  dir: string
  place: RunPlace
  spool: Spool
}

async function scene(): Promise<Scene> {
  const temp = await tempDir()
  const layout = layoutOf({ root: temp.path, instance: 'cut' })
  // Its clock is ahead: what has not begun by now is not about to.
  const clock = { now: () => Date.now() + 3_600_000, mono: () => performance.now() }
  const spool = await openSpool({ layout, create: true, clock })
  const place = { layout, log: { max_bytes: 1e6, max_age_ms: 0, total_bytes: 1e7 }, kill_grace_ms: 1000 }
  return { dir: temp.path, place, spool, [Symbol.asyncDispose]: () => temp[Symbol.asyncDispose]() }
}

/**
 * Every n-th of the points. `calls` undefined: every call that the shim makes at all.
 * @param fsync with it there are more calls
 */
export async function cutShim(o: {
  calls?: readonly string[]
  stride?: number
  parallel: number
  fsync: boolean
}): Promise<CutReport> {
  await using s = await scene()
  const trace = join(s.dir, 'trace')
  const recorded = await once(s, o.fsync, [
    '-o',
    trace,
    ...(o.calls ? ['-e', `trace=${o.calls.map((c) => `?${c}`).join(',')}`] : []),
  ])
  const report: CutReport = { points: 0, killed: 0, never: 0, known: 0, unseen: 0, violations: recorded.wrong }
  if (recorded.end !== 'known') report.violations.push(`Without a kill it ended as ${recorded.end}.`)
  const counts = new Map<string, number>()
  for (const [, call] of readFileSync(trace, 'utf8').matchAll(/^(\w+)\(/gm))
    counts.set(call!, (counts.get(call!) ?? 0) + 1)
  counts.delete('execve') // before it there is no shim
  const points = [...counts].flatMap(([call, n]) => Array.from({ length: n }, (_, i) => ({ call, index: i + 1 })))
  const chosen = points.filter((_, i) => i % (o.stride ?? 1) === 0)
  let next = 0
  const lane = async () => {
    for (let i = next++; i < chosen.length; i = next++) {
      const { call, index } = chosen[i]!
      const seen = await once(s, o.fsync, [
        '-o',
        '/dev/null',
        '-e',
        `trace=${call}`,
        '-e',
        `inject=${call}:signal=KILL:when=${index}`,
      ])
      report.points++
      if (seen.killed) report.killed++
      report[seen.end]++
      report.violations.push(...seen.wrong.map((w) => `${call} ${index}: ${w}`))
    }
  }
  await Promise.all(Array.from({ length: o.parallel }, lane))
  return report
}

interface Seen {
  killed: boolean
  /** it never ran; how it ended is on record; it ran and nobody saw its end */
  end: 'never' | 'known' | 'unseen'
  wrong: string[]
}

let jobs = 0
const command = (runs: string) => ['/bin/sh', '-c', `echo $$ >> ${runs}; echo out; exit 7`]

async function once(s: Scene, fsync: boolean, strace: string[]): Promise<Seen> {
  const runs = join(s.dir, `runs-${jobs++}`)
  const { job, spec } = prepareRun(s.place, command(runs), { fsync })
  const child = startUnder(['strace', '-qq', ...strace], spec)
  const killed = await new Promise<boolean>((resolve) =>
    child.on('close', (_code, signal) => resolve(signal === 'SIGKILL')),
  )
  return { killed, ...(await judge(s, job.record, spec.dir, runs)) }
}

/** As startShim() does it, under another program. */
function startUnder(before: string[], spec: Parameters<typeof orders>[0]): ChildProcess {
  const { mkdirSync } = process.getBuiltinModule('node:fs')
  mkdirSync(spec.dir, { recursive: true, mode: 0o700 })
  const token = `cut-${jobs}`
  const told = Object.entries(orders(spec, token)).flat()
  const env = Object.entries(environment(spec.env, token)).flat()
  const child = spawn(before[0]!, [...before.slice(1), perl, program, spec.dir, ...spec.argv], {
    cwd: '/',
    env: { PATH: process.env.PATH ?? '', LC_ALL: 'C' },
    stdio: ['pipe', 'ignore', 'ignore', 'pipe'],
  })
  child.stdin?.on('error', () => {}) // it was killed before it read
  child.stdin?.end([told.length, ...told, ...env, 'end'].join('\0'))
  child.stdio[3]?.on('error', () => {})
  ;(child.stdio[3] as NodeJS.ReadableStream).resume()
  return child
}

/** Compares what is on record with what the command itself wrote down. */
async function judge(s: Scene, record: string, dir: string, runs: string): Promise<Pick<Seen, 'end' | 'wrong'>> {
  const wrong: string[] = []
  // What a killed shim left ends by itself.
  const state = await until('its command has ended', () => {
    const now = shimState(dir)
    return now.state === 'orphaned' || now.state === 'running' ? undefined : now
  })
  if (state.state === 'lost' && !state.process && existsSync(dir) && !fenceShim(dir))
    wrong.push('It started after all.')
  const ran = existsSync(runs) ? readFileSync(runs, 'utf8').trim().split('\n') : []
  if (ran.length > 1) wrong.push(`It ran ${ran.length} times.`)
  if (ran.length > 0 && state.state === 'lost' && !state.process) wrong.push('It ran without being on record.')
  if (ran.length > 0 && 'process' in state && state.process && String(state.process.pid) !== ran[0])
    wrong.push(`It ran as process ${ran[0]}, but ${state.process.pid} is on record.`)
  if (state.state === 'elsewhere') wrong.push('It is said to be elsewhere.')
  if (state.state === 'ended') {
    if (ran.length === 0) wrong.push(`It never ran, but its end is on record: ${JSON.stringify(state.exit)}.`)
    if (state.exit.exit_code !== 7 || state.exit.signal !== null)
      wrong.push(`It ended with exit code 7, not as ${JSON.stringify(state.exit)}.`)
  }
  const after = await stopShim(dir, { by: 'the-sweep', graceMs: 0, force: true })
  if (after.state !== state.state) wrong.push(`Stopping what has ended made ${after.state} of ${state.state}.`)
  if (shimsBelow(dir.slice(0, dir.lastIndexOf('/'))).length > 0) wrong.push('A shim is left.')

  // Then somebody looks at the job.
  const file = record.slice(record.lastIndexOf('/') + 1)
  const name = parseJobName(file)!
  if (existsSync(record) && !(await settleStarted(s.spool, { name, state: 'started', path: record })))
    wrong.push('It cannot be settled.')
  const folders = (['started', 'done', 'failed', 'cancelled'] as const).filter((f) =>
    readdirSync(s.spool.layout[f]).includes(file),
  )
  if (folders.join() !== 'failed')
    wrong.push(`Its record lies in ${folders.join(' and ') || 'no folder'}, not in failed.`)
  const folder = join(s.spool.layout.outputJobs, name.id)
  for (const f of ['status.json', 'result.json']) {
    const told = JSON.parse(readFileSync(join(folder, f), 'utf8'))
    if (told.state !== 'failed' || told.exit_code !== (state.state === 'ended' ? 7 : undefined))
      wrong.push(`${f} says ${told.state}, exit code ${told.exit_code}, of a command that is ${state.state}.`)
    const code = told.error?.code
    if (f === 'result.json' && code !== (state.state === 'ended' ? 'exit-code' : 'lost'))
      wrong.push(`${f} gives ${code} as its error.`)
  }
  return { end: ran.length === 0 ? 'never' : state.state === 'ended' ? 'known' : 'unseen', wrong }
}

/** `vmspool run` killed after each of these parts of the time that it takes. */
export async function cutStarter(
  vmspool: string,
  tries: number,
  parallel: number,
  way: 'short' | 'node',
): Promise<CutReport> {
  await using s = await scene()
  const report: CutReport = { points: 0, killed: 0, never: 0, known: 0, unseen: 0, violations: [] }
  /** @returns how long it took, or Infinity when it was killed */
  const run = async (delay_ms: number | undefined): Promise<number> => {
    const name = `job-${jobs++}`
    const runs = join(s.dir, name)
    const at = performance.now()
    const child = spawn(
      vmspool,
      ['run', '--root', s.dir, '--instance', 'cut', '--name', name, '--no-fsync', '--', ...command(runs)],
      {
        stdio: 'ignore',
        env: way === 'node' ? { ...process.env, PERL5LIB: '/nonexistent' } : process.env, // with that bin/vmspool does not trust perl
      },
    )
    const ended = new Promise<boolean>((resolve) => child.on('close', (_code, signal) => resolve(signal === 'SIGKILL')))
    const timer = delay_ms === undefined ? undefined : setTimeout(() => child.kill('SIGKILL'), delay_ms)
    const killed = await ended
    clearTimeout(timer)
    const took = killed ? Number.POSITIVE_INFINITY : performance.now() - at
    // A shim that it had started goes its way.
    await until('no shim is left of it', () => {
      const mine = findRecord(s, name)
      return mine === undefined || shimsBelow(join(s.spool.layout.outputJobs, mine.id)).length === 0
    })
    const found = findRecord(s, name)
    report.points++
    if (killed) report.killed++
    if (!found) {
      report.never++
      if (existsSync(runs)) report.violations.push(`${name} ran without being on record.`)
      return took
    }
    const seen = await judge(s, found.started, join(s.spool.layout.outputJobs, found.id, 'run'), runs)
    report[seen.end]++
    report.violations.push(...seen.wrong.map((w) => `killed after ${delay_ms} ms: ${w}`))
    return took
  }
  await run(undefined) // fills caches
  let took = Math.min(await run(undefined), await run(undefined))
  let next = 0
  const lane = async () => {
    // Now and then one is left to go its way, however slow the machine has become since.
    for (let i = next++; i < tries; i = next++) {
      const ms = await run(i % 8 === 7 ? undefined : took * (0.1 + (1.6 * i) / tries))
      took = Math.min(took, ms) // the machine may have become faster
    }
  }
  await Promise.all(Array.from({ length: parallel }, lane))
  return report
}

function findRecord(s: Scene, answer: string): { id: string; started: string } | undefined {
  for (const folder of ['started', 'done', 'failed', 'cancelled'] as const) {
    for (const file of readdirSync(s.spool.layout[folder]).filter((f) => !f.startsWith('.'))) {
      try {
        const record = JSON.parse(readFileSync(join(s.spool.layout[folder], file), 'utf8'))
        if (record.answer === answer) return { id: record.id, started: join(s.spool.layout.started, file) }
      } catch {
        // moved meanwhile
      }
    }
  }
  return undefined
}

/** A job that was settled since nobody had started it, and whoever wanted to start it comes after all. */
export async function startTooLate(): Promise<{ settled: boolean; failed: unknown; ran: boolean; state: string }> {
  await using s = await scene()
  const runs = join(s.dir, 'runs')
  const { job, spec } = prepareRun(s.place, command(runs), { fsync: false })
  const name = parseJobName(job.record.slice(job.record.lastIndexOf('/') + 1))!
  const settled = await settleStarted(s.spool, { name, state: 'started', path: job.record })
  const late = await startShim(spec)
  const failed = 'failed' in late ? late.failed.spawn_error : undefined
  return { settled, failed, ran: existsSync(runs), state: JSON.parse(readFileSync(job.result, 'utf8')).state }
}

export function summary(what: string, r: CutReport): string {
  return (
    `${what}: ${r.points} points, ${r.killed} killed there; the command never ran ${r.never} times, ended on record ${r.known} times, unseen ${r.unseen} times; ` +
    `${r.violations.length} violations${r.violations.map((v) => `\n    ${v}`).join('')}`
  )
}
