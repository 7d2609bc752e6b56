// Agents killed and stopped at random while they work; afterwards every job that was dropped must have ended exactly once.
import { open, readdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { execa } from 'execa'
import { type Bed, bed, type RunningAgent, vmspool } from '../support/agent.ts'
import type { Layout } from '../../src/spool/index.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

export interface ChaosOptions {
  /** the first is a main agent, the others are workers */
  agents: number
  jobs: number
  /** answer names that a quarter of the jobs share, so that lanes are contended */
  sharedNames: number
  lease_ms: number
  every_ms: number
  /** chaos ends when all jobs have ended, or after this; then the agents get this long again to finish */
  chaos_ms: number
  settle_ms: number
  seed: number
}

export interface ChaosReport {
  jobs: number
  kills: number
  stops: number
  /** runs of handlers; more than the jobs, since a kill in the middle means work done twice */
  started: number
  ended: number
  lost: string[]
  /** drops that became more than one job, and jobs committed more than once */
  doubles: string[]
  /** jobs that ended otherwise than they must */
  wrong: string[]
  /** jobs whose end was told of by two publishers of the same commit */
  toldTwice: number
  fsckExit: number
  fsck: string
  duration_ms: number
}

export const emptyReport = (jobs: number): ChaosReport => ({
  jobs,
  kills: 0,
  stops: 0,
  started: 0,
  ended: 0,
  lost: [],
  doubles: [],
  wrong: [],
  toldTwice: 0,
  fsckExit: -1,
  fsck: '',
  duration_ms: 0,
})

/** mulberry32: the same seed, the same sequence of blows. */
export function random(seed: number): () => number {
  let a = seed >>> 0
  return () => {
    a = (a + 0x6d2b79f5) >>> 0
    let t = Math.imul(a ^ (a >>> 15), 1 | a)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

export async function chaos(o: ChaosOptions): Promise<ChaosReport> {
  await using dir = await tempDir()
  await using b = await bed(dir.path, {
    lease: { timeout: `${o.lease_ms}ms` },
    // Blows are no fault of the jobs, and here they are many.
    max_crashes: 10_000,
    retry: { max_attempts: 2, delay: '100ms', factor: 1 },
    intake: { raw_keep: '200ms', bare_disks: 'off' },
    drain: { timeout: '5s' },
    timeouts: { kill_grace: '1s' },
  })
  const started = performance.now()
  const next = random(o.seed)
  const runs = join(dir.path, 'runs')
  await writeFile(runs, '')
  const report = emptyReport(o.jobs)

  const slots: { agent: RunningAgent; worker: boolean; stoppedUntil?: number }[] = []
  slots.push({ agent: await b.start(), worker: false })
  for (let i = 1; i < o.agents; i++) slots.push({ agent: await b.start({ worker: true, wait: false }), worker: true })

  const expected = new Map<string, 'done' | 'failed'>()
  const dropping = (async () => {
    for (let i = 0; i < o.jobs; i++) {
      const label = `j${i}`
      const name = next() < 0.25 ? `shared-${Math.floor(next() * o.sharedNames)}` : label
      const fails = next() < 0.1
      expected.set(label, fails ? 'failed' : 'done')
      const script = `echo ${label} >> ${runs}; sleep 0.0$((RANDOM % 5)); ${fails ? 'exit 3' : 'exit 0'}`
      const manifest = {
        kind: 'command',
        name,
        priority: i % 10,
        labels: { label },
        command: { argv: ['bash', '-c', script] },
      }
      await drop(b.layout, `${label}.json`, JSON.stringify(manifest), next)
      if (i % 20 === 19) await sleep(10)
    }
  })()

  const endOfChaos = performance.now() + o.chaos_ms
  while (performance.now() < endOfChaos) {
    await sleep(o.every_ms)
    for (const s of slots) {
      if (s.stoppedUntil !== undefined && performance.now() > s.stoppedUntil) {
        s.agent.signal('SIGCONT')
        s.stoppedUntil = undefined
      }
      // An agent that was killed, or that found another main agent still in place, comes back.
      if (!s.agent.alive()) s.agent = await b.start({ worker: s.worker, wait: false })
    }
    const victim = slots[Math.floor(next() * slots.length)]!
    // whatever chance brings, and however soon all jobs are done: the first blow is a stop, the second a kill
    const stops = report.stops === 0 || (report.kills > 0 && next() < 0.4)
    if (victim.stoppedUntil === undefined && stops) {
      victim.agent.signal('SIGSTOP')
      victim.stoppedUntil = performance.now() + o.lease_ms * 1.6
      report.stops++
    } else {
      victim.agent.signal('SIGKILL')
      victim.stoppedUntil = undefined
      report.kills++
    }
    if ((await endedFiles(b)).length >= o.jobs) break
  }
  await dropping
  for (const s of slots) {
    s.agent.signal('SIGCONT')
    if (!s.agent.alive()) s.agent = await b.start({ worker: s.worker, wait: false })
  }
  await until('all jobs have ended', async () => (await endedFiles(b)).length >= o.jobs, {
    deadline_ms: o.settle_ms,
    every_ms: 200,
    also: () => `${slots.filter((s) => s.agent.alive()).length} of ${slots.length} agents are alive.`,
  }).catch((error) => report.wrong.push(String(error.message)))
  await Promise.all(slots.map((s) => s.agent.stop()))

  await audit(b.layout, expected, report)
  report.started = (await readFile(runs, 'utf8')).split('\n').length - 1
  const fsck = await execa(vmspool, ['fsck', '--root', b.dir, '--instance', b.instance], { reject: false, env: b.env })
  report.fsckExit = fsck.exitCode ?? -1
  report.fsck = fsck.stdout + fsck.stderr
  report.duration_ms = performance.now() - started
  return report
}

/** Half of the clients rename a complete file into place, half write in pieces under the final name. */
export async function drop(layout: Layout, name: string, text: string, next: () => number): Promise<void> {
  const path = join(layout.queue, name)
  if (next() < 0.5) {
    await writeFile(join(layout.queue, `.${name}`), text)
    await rename(join(layout.queue, `.${name}`), path)
    return
  }
  await using file = await open(path, 'w')
  const cut = Math.floor(next() * text.length)
  await file.write(text.slice(0, cut))
  if (next() < 0.2) await sleep(5)
  await file.write(text.slice(cut))
}

const states = ['done', 'failed', 'cancelled', 'rejected'] as const

async function endedFiles(b: Bed): Promise<string[]> {
  const lists = await Promise.all(states.map((state) => readdir(b.layout[state])))
  return lists.flat().filter((f) => f.includes('~'))
}

export async function audit(
  layout: Layout,
  expected: Map<string, 'done' | 'failed'>,
  report: ChaosReport,
): Promise<void> {
  const seen = new Map<string, string[]>()
  for (const state of states) {
    for (const file of (await readdir(layout[state])).filter((f) => f.includes('~'))) {
      const record = JSON.parse(await readFile(join(layout[state], file), 'utf8'))
      const label: string = record.manifest?.labels?.label ?? record.drop.file
      seen.set(label, [...(seen.get(label) ?? []), record.id])
      const wanted = expected.get(label)
      if (wanted !== state) report.wrong.push(`${label} ended as ${state}, not as ${wanted}.`)
      report.ended++
    }
  }
  for (const label of expected.keys()) {
    const ids = seen.get(label) ?? []
    if (ids.length === 0) report.lost.push(label)
    if (ids.length > 1) report.doubles.push(`${label} became the jobs ${ids.join(', ')}.`)
  }
  // Two publishers of one commit may both tell of it; two commits would tell of two epochs, or of two outcomes.
  const told = new Map<string, string[]>()
  for (const line of (await readFile(join(layout.daemon, 'events.jsonl'), 'utf8')).split('\n')) {
    let event: { event?: string; job?: string; epoch?: number; state?: string }
    try {
      event = JSON.parse(line)
    } catch {
      continue // cut off by a kill
    }
    if (!event.job || event.event !== 'finished') continue
    told.set(event.job, [...(told.get(event.job) ?? []), `${event.state} in epoch ${event.epoch}`])
  }
  for (const [job, ends] of told) {
    if (new Set(ends).size > 1) report.doubles.push(`${job} was committed ${ends.join(' and ')}.`)
    if (ends.length > 1) report.toldTwice++
  }
}

export function summary(r: ChaosReport): string {
  const problems = [...r.lost.map((l) => `lost: ${l}`), ...r.doubles, ...r.wrong].slice(0, 20)
  return [
    `${r.jobs} jobs, ${r.kills} SIGKILL, ${r.stops} SIGSTOP beyond the lease, ${Math.round(r.duration_ms / 1000)} s:`,
    `${r.ended} ended, ${r.started} runs started, ${r.lost.length} lost, ${r.doubles.length} double commits, ${r.wrong.length} ended wrongly, ${r.toldTwice} told of twice, fsck exit ${r.fsckExit}`,
    ...problems.map((p) => `  ${p}`),
    ...(r.fsckExit === 0 ? [] : [r.fsck.split('\n').slice(0, 20).join('\n')]),
  ].join('\n')
}
