// A flood of numbered lines into a log that is bounded, watched from outside: how large its files and its writer become.
import { readFileSync } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { logFilesOf } from '../../src/process/log-files.ts'
import { logParser } from '../../src/process/log-format.ts'
import { openLogReader } from '../../src/process/log-reader.ts'

export interface Watched {
  /** most that all files of the log took at once, in bytes */
  disk: number
  /** most memory that the writer took, in bytes (VmHWM) */
  memory: number
  /** lines that a follower saw while they were written */
  lines: number
  /** parts that were removed before the follower came to them */
  missed: number
  /** what is wrong with the order of the lines; must be empty */
  wrong: string[]
}

/** Follows `line <n> …` in a log until `over`, while something writes it. */
export async function watchFlood(path: string, pid: () => number | undefined, over: () => boolean): Promise<Watched> {
  const w: Watched = { disk: 0, memory: 0, lines: 0, missed: 0, wrong: [] }
  const measuring = (async () => {
    while (!over()) {
      w.disk = Math.max(w.disk, await sizeOf(path))
      const is = pid()
      if (is !== undefined) w.memory = Math.max(w.memory, peakOf(is))
      await sleep(20)
    }
  })()
  const reader = openLogReader(logFilesOf(path))
  const parser = logParser()
  let last = -1
  let gap = false
  let line = ''
  for (let final = false; !final; ) {
    final = over()
    for await (const next of reader.read()) {
      if (!Buffer.isBuffer(next)) {
        if (next.notice === 'removed') w.missed += next.to - next.from + 1
        else w.wrong.push(JSON.stringify(next))
        gap = true
        line = ''
        continue
      }
      for (const p of parser.push(next)) {
        if (p.stream === 'agent') continue
        line += p.bytes.toString('latin1', 0, 40)
        if (!p.newline) continue
        const n = Number(/^line (\d+) /.exec(line)?.[1])
        line = ''
        w.lines += 1
        // Behind a gap the first line may be the rest of one.
        if (gap ? !(n > last) && !Number.isNaN(n) : n !== last + 1) w.wrong.push(`${n} after ${last}`)
        if (!Number.isNaN(n)) {
          last = n
          gap = false
        }
        if (w.wrong.length > 10) throw new Error(w.wrong.join(', '))
      }
    }
    if (!final) await sleep(10)
  }
  await reader.close()
  await measuring
  return w
}

async function sizeOf(path: string): Promise<number> {
  const dir = join(path, '..')
  let sum = 0
  for (const name of await readdir(dir).catch(() => [])) {
    if (!name.replace(/^\./, '').startsWith('log')) continue
    // A guard is a second name of the live file.
    if (name.startsWith('.log.w-')) continue
    sum += await stat(join(dir, name)).then(
      (s) => s.size,
      () => 0,
    )
  }
  return sum
}

function peakOf(pid: number): number {
  try {
    return Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) * 1024
  } catch {
    return 0
  }
}
