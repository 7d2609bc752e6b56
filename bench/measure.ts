// Small instruments: percentiles, the price of an fsync here, what a process costs, and what machine this is.
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { mkdtemp, open, readFile, rename, rm, statfs, writeFile } from 'node:fs/promises'
import { cpus, release, totalmem } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'

export function percentile(values: readonly number[], p: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor((p / 100) * sorted.length))] ?? Number.NaN
}

export interface FsyncCost {
  file_p50_ms: number
  file_p99_ms: number
  folder_p50_ms: number
  folder_p99_ms: number
}

/** What it costs to make 4 KiB durable, and to make a rename durable, on the file system of `dir`. */
export async function fsyncCost(dir: string, rounds = 200): Promise<FsyncCost> {
  const work = await mkdtemp(join(dir, 'fsync-'))
  const file: number[] = []
  const folder: number[] = []
  const block = Buffer.alloc(4096, 1)
  for (let i = 0; i < rounds; i++) {
    const path = join(work, `f${i}`)
    {
      await using f = await open(path, 'w')
      await f.write(block)
      const at = performance.now()
      await f.datasync()
      file.push(performance.now() - at)
    }
    await rename(path, `${path}.done`)
    await using d = await open(work, 'r')
    const at = performance.now()
    await d.sync()
    folder.push(performance.now() - at)
  }
  await rm(work, { recursive: true })
  return {
    file_p50_ms: percentile(file, 50),
    file_p99_ms: percentile(file, 99),
    folder_p50_ms: percentile(folder, 50),
    folder_p99_ms: percentile(folder, 99),
  }
}

/** CPU time of a process so far, all threads, in ms (proc(5), 100 ticks a second). */
export function cpuMs(pid: number): number {
  const line = readFileSync(`/proc/${pid}/stat`, 'utf8')
  const fields = line.slice(line.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) * 10
}

/** Resident memory of a process in MiB: now, and at its highest. */
export function memoryMiB(pid: number): { now: number; peak: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  const kib = (name: string) => Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)?.[1] ?? 0)
  return { now: kib('VmRSS') / 1024, peak: kib('VmHWM') / 1024 }
}

/** Makes a peer's input or a folder quiet: what was dirty is on disk before the next measurement. */
export async function settle(dir: string): Promise<void> {
  await writeFile(join(dir, '.settle'), '')
  await execa('sync', ['-f', join(dir, '.settle')])
  await rm(join(dir, '.settle'))
}

/** How many fsync and fdatasync calls a process makes while `work` runs. */
export async function countFsyncs(pid: number, work: () => Promise<void>): Promise<number> {
  const tracer = spawn('strace', ['-f', '-c', '-e', 'trace=fsync,fdatasync', '-p', String(pid)], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let said = ''
  const ended = new Promise<void>((resolve) => tracer.on('close', () => resolve()))
  await new Promise<void>((resolve) => {
    tracer.stderr.on('data', (d: Buffer) => {
      said += d
      if (said.includes('attached')) resolve()
    })
    void ended.then(resolve)
  })
  await work()
  tracer.kill('SIGINT')
  await ended
  let calls = 0
  for (const m of said.matchAll(/^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?f(?:data)?sync$/gm))
    calls += Number(m[1])
  return calls
}

export async function machine(dir: string): Promise<string> {
  const { stdout } = await execa('findmnt', ['-no', 'FSTYPE,SOURCE', '-T', dir], { reject: false })
  const { bsize, blocks } = await statfs(dir)
  const [cpu] = cpus()
  return [
    `${cpus().length} × ${cpu?.model.trim() ?? 'unknown processor'}`,
    `${Math.round(totalmem() / 2 ** 30)} GiB of memory`,
    `Linux ${release()}`,
    `${stdout.trim() || 'unknown file system'} (${Math.round((bsize * blocks) / 2 ** 30)} GiB)`,
    `Node ${process.version}`,
  ].join(', ')
}

export function table(head: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  const text = rows.map((r) => r.map((c) => (typeof c === 'number' ? format(c) : c)))
  const widths = head.map((h, i) => Math.max(h.length, ...text.map((r) => (r[i] ?? '').length)))
  const line = (cells: readonly string[]) =>
    `| ${cells.map((c, i) => (i === 0 ? c.padEnd(widths[i]!) : c.padStart(widths[i]!))).join(' | ')} |`
  const rule = `|${widths.map((w, i) => (i === 0 ? '-'.repeat(w + 2) : `${'-'.repeat(w + 1)}:`)).join('|')}|`
  return [line(head), rule, ...text.map(line)].join('\n')
}

export function format(n: number): string {
  if (!Number.isFinite(n)) return '-'
  if (n >= 100) return String(Math.round(n))
  return n >= 10 ? n.toFixed(1) : n.toFixed(2)
}

/** Replaces one benchmark's part of docs/benchmarks.md. */
export async function writePart(name: string, lines: readonly string[]): Promise<void> {
  const file = join(import.meta.dirname, '../docs/benchmarks.md')
  const [begin, end] = [`<!-- bench:${name} -->`, `<!-- /bench:${name} -->`]
  const text = await readFile(file, 'utf8')
  const from = text.indexOf(begin)
  const to = text.indexOf(end)
  if (from < 0 || to < 0) throw new Error(`${file} has no part between ${begin} and ${end} to write to.`)
  await writeFile(file, `${text.slice(0, from + begin.length)}\n\n${lines.join('\n')}\n\n${text.slice(to)}`)
  process.stdout.write(`\nWritten to ${file}.\n`)
}
