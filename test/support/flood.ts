// A command that writes as fast as it can, and what that costs.
import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type ShimExit, waitShim } from '../../src/process/index.ts'
import { peakMiB, shimBed, streamsOf, wholeLog } from './shim.ts'

export interface Flood {
  exit: ShimExit | undefined
  /** of the shim, MiB */
  peakMiB: number
  /** the most that lay in the folder of the log at one time, and what it may be, bytes */
  mostOnDisk: number
  bound: number
  bytes_per_s: number
  /** what is wrong with the part of the log that is left */
  problem: string | undefined
}

const scripts = {
  // Numbered, so that a missing one is seen.
  lines: (n: number) =>
    `my $t = "." x 80; for my $i (0..${Math.floor(n / 9.1e4)} - 1) { print map { sprintf "%08d %s\\n", $i * 1000 + $_, $t } 0..999 }`,
  'one line': (n: number) => `my $x = "x" x 65536; syswrite STDOUT, $x for 1..${Math.floor(n / 65536)}`,
  newlines: (n: number) => `my $x = "\\n" x 65536; syswrite STDOUT, $x for 1..${Math.floor(n / 65536)}`,
}

export async function flood(kind: keyof typeof scripts, bytes: number): Promise<Flood> {
  await using b = await shimBed()
  const log = { path: join(b.dir, 'log'), max_bytes: 2e6, max_age_ms: 0, total_bytes: 10e6 }
  const s = await b.start(['perl', '-e', scripts[kind](bytes)], { log })
  let most = 0
  let peak = 0
  const ended = waitShim(s.dir)
  let over = false
  void ended.finally(() => {
    over = true
  })
  while (!over) {
    try {
      peak = peakMiB(s.process.shim.pid)
    } catch {
      // gone
    }
    most = Math.max(most, used(b.dir))
    await sleep(20)
  }
  const state = await ended
  const exit = state.state === 'ended' ? state.exit : undefined
  const left = streamsOf(wholeLog(log.path)).stdout
  return {
    exit,
    peakMiB: peak,
    mostOnDisk: most,
    // The sum, one part that is not compressed yet beside its archive, and what comes of one read: 64 KiB of newlines have a mark each.
    bound: log.total_bytes + 2 * log.max_bytes + 36 * 65536,
    bytes_per_s: bytes / ((exit?.duration_ms ?? Number.NaN) / 1000),
    problem: kind === 'lines' ? gap(left, Math.floor(bytes / 9.1e4) * 1000) : undefined,
  }
}

function used(dir: string): number {
  let sum = 0
  for (const file of readdirSync(dir).filter((f) => /^\.?log/.test(f))) {
    try {
      sum += statSync(join(dir, file)).size
    } catch {
      // renamed or removed meanwhile
    }
  }
  return sum
}

/** The oldest are gone; from the first that is left to the last none is missing. */
function gap(left: Buffer, lines: number): string | undefined {
  const numbers = left
    .toString('latin1')
    .split('\n')
    .slice(0, -1)
    .map((l) => Number(l.slice(0, 8)))
  // The first part may begin in the middle of a line.
  const at = numbers.findIndex((n, i) => i > 0 && n !== numbers[i - 1]! + 1 && i > 1)
  if (at >= 0) return `after ${numbers[at - 1]} comes ${numbers[at]}`
  if (numbers.at(-1) !== lines - 1) return `the last is ${numbers.at(-1)}, not ${lines - 1}`
  return numbers.length < 10_000 ? `only ${numbers.length} lines are left` : undefined
}
