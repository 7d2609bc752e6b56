// The sides of the comparison. Each makes its output from nothing and ends with it synced; sides run in turn, so that what disturbs
// the machine disturbs all of them.
import { spawn } from 'node:child_process'
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { mkdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { type ConvertRequest, convertArgv, runConvert } from '../test/support/convert-command.ts'
import { percentile, settle } from './measure.ts'

export interface Side {
  name: string
  /** works in the empty folder `dir` */
  run(dir: string): Promise<Took>
}

export interface Took {
  /** the whole command's */
  ms: number
  /** ours: the sum of the phases in the report */
  engine_ms?: number
  /** ours: the path that was taken */
  path?: string
  /** processor time of the command and all its children */
  cpu_ms?: number
  /** bytes that the finished image allocates; shared extents count */
  bytes?: number
}

/** A peer: a shell line that finds its source as $1 and writes to $2 (or below $2's folder), which is synced as a part of it. */
export function peer(name: string, line: string, source: string): Side {
  return {
    name,
    run: async (dir) => {
      const target = join(dir, 'out.img')
      const at = performance.now()
      await execa('sh', ['-ec', `${line}\nsync "$2"`, 'sh', source, target], { cwd: dir })
      return { ms: performance.now() - at, bytes: (await stat(target)).blocks * 512 }
    },
  }
}

/** Ours: the command as a user types it. */
export function ours(name: string, r: Omit<ConvertRequest, 'out' | 'name'>): Side {
  return {
    name,
    run: async (dir) => {
      const out = join(dir, 'out')
      await mkdir(out)
      const done = await runConvert({ ...r, out, name: 'disk' })
      const engine_ms = (done.report.phases as { duration_ms: number }[]).reduce((n, p) => n + p.duration_ms, 0)
      return {
        ms: done.ms,
        engine_ms,
        path: done.report.disks[0].path,
        bytes: (await stat(done.image)).blocks * 512,
      }
    },
  }
}

export interface Median {
  name: string
  ms: number
  engine_ms: number
  cpu_ms: number
  path: string
  bytes: number
  runs: number
}

/** The median of `rounds` runs of each side, side by side in each round, in a folder below `dir` that is made and removed. */
export async function alternately(
  dir: string,
  sides: readonly (Side & { rounds?: number })[],
  rounds: number,
): Promise<Median[]> {
  const took = sides.map((): Took[] => [])
  for (let round = 0; round < rounds; round++) {
    for (let n = 0; n < sides.length; n++) {
      // another one begins each time, for what comes first after others' files were removed has it harder or easier
      const i = (n + round) % sides.length
      const side = sides[i]!
      if (round >= (side.rounds ?? rounds)) continue
      const work = join(dir, 'run')
      await rm(work, { recursive: true, force: true })
      await mkdir(work)
      await settle(dir)
      const cpu = childrenCpuMs()
      const t = await side.run(work)
      took[i]!.push({ ...t, cpu_ms: childrenCpuMs() - cpu })
      await rm(work, { recursive: true, force: true })
    }
  }
  return sides.map((side, i) => {
    const t = took[i]!
    const median = (of: (x: Took) => number | undefined) =>
      percentile(
        t.map((x) => of(x) ?? Number.NaN),
        50,
      )
    return {
      name: side.name,
      ms: median((x) => x.ms),
      engine_ms: median((x) => x.engine_ms ?? x.ms),
      cpu_ms: median((x) => x.cpu_ms),
      path: t[0]?.path ?? '',
      bytes: median((x) => x.bytes),
      runs: t.length,
    }
  })
}

/** Processor time of all our ended children and theirs, in ms (proc(5): cutime and cstime, 100 ticks a second). */
function childrenCpuMs(): number {
  const line = readFileSync('/proc/self/stat', 'utf8')
  const fields = line.slice(line.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[13]) + Number(fields[14])) * 10
}

/** The highest sum of VmHWM over the command and its living children (proc(5)), in MiB, and the command's own. */
export async function peakMemory(
  dir: string,
  r: Omit<ConvertRequest, 'out' | 'name'>,
): Promise<{ all: number; own: number }> {
  const work = join(dir, 'run')
  await rm(work, { recursive: true, force: true })
  const out = join(work, 'out')
  await mkdir(out, { recursive: true })
  const [file, ...args] = await convertArgv({ ...r, out, name: 'disk' })
  const child = spawn(file!, args, { stdio: 'ignore', env: { ...process.env, ...r.env } })
  const ended = new Promise<number | null>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', resolve)
  })
  let all = 0
  let own = 0
  const timer = setInterval(() => {
    const tree = family(child.pid!)
    own = Math.max(own, highWater(child.pid!))
    all = Math.max(
      all,
      // between fork and exec a child shows its parent's memory as its own
      tree.reduce((n, pid) => n + (pid === child.pid || program(pid) !== program(child.pid!) ? highWater(pid) : 0), 0),
    )
  }, 5)
  try {
    const code = await ended
    if (code !== 0) throw new Error(`vmspool convert of ${r.source} ended with exit code ${code}.`)
  } finally {
    clearInterval(timer)
    await rm(work, { recursive: true, force: true })
  }
  return { all, own }
}

/** A process and all that descend from it. */
function family(pid: number): number[] {
  const found = [pid]
  for (const p of found) {
    try {
      for (const task of readdirSync(`/proc/${p}/task`)) {
        const text = readFileSync(`/proc/${p}/task/${task}/children`, 'utf8').trim()
        if (text !== '') found.push(...text.split(' ').map(Number))
      }
    } catch {
      // ended while we looked
    }
  }
  return found
}

function program(pid: number): string {
  try {
    return readlinkSync(`/proc/${pid}/exe`)
  } catch {
    return ''
  }
}

function highWater(pid: number): number {
  try {
    return Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) / 1024
  } catch {
    return 0
  }
}
