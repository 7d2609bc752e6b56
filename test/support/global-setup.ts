// One private TMPDIR and one mark in the environment for a whole run; afterwards nothing of it may be left.
import { randomUUID } from 'node:crypto'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { mountsBelow, processesMarked } from './leaks.ts'

export default function setup(): () => Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'vmspool-test-'))
  const run = randomUUID()
  const before = process.env.TMPDIR
  process.env.TMPDIR = dir
  process.env.VMSPOOL_TEST_RUN = run
  // One index of finished jobs for all agents and lists of the run, as on a host, and not the host's own.
  const cache = mkdtempSync(join(before ?? '/tmp', 'vmspool-cache-'))
  process.env.VMSPOOL_HISTORY_PATH = join(cache, 'history.db')

  return async () => {
    if (before === undefined) delete process.env.TMPDIR
    else process.env.TMPDIR = before
    const leaks: string[] = []

    // vitest's own workers may still be on their way out; what outlives them by half a minute was leaked by a test.
    const strangers = () =>
      processesMarked(`VMSPOOL_TEST_RUN=${run}`).filter(
        (p) => p.pid !== process.pid && !(p.ppid === process.pid && /vitest|esbuild/.test(p.command)),
      )
    for (let i = 0; i < 300 && strangers().length > 0; i++) await sleep(100)
    for (const p of strangers()) {
      leaks.push(`process ${p.pid}: ${p.command.slice(0, 200)}`)
      try {
        process.kill(p.pid, 'SIGKILL')
      } catch {
        // It ended by itself in the meantime; it still was too late.
      }
    }
    const mounts = mountsBelow(dir)
    leaks.push(...mounts.map((m) => `mount ${m}`))
    leaks.push(...readdirSync(dir).map((f) => `file ${join(dir, f)}`))
    delete process.env.VMSPOOL_HISTORY_PATH
    rmSync(cache, { recursive: true, force: true })
    if (mounts.length === 0) rmSync(dir, { recursive: true, force: true })
    if (leaks.length > 0) throw new Error(`The test run left something behind:\n  ${leaks.join('\n  ')}`)
  }
}
