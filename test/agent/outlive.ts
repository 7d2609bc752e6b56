// Agents killed at random moments while commands run: each command runs once, to its own end, and that end is on record.
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { bed, type RunningAgent } from '../support/agent.ts'
import { commandManifest } from '../support/manifests.ts'
import { drop, endOf } from '../support/results.ts'
import { tempDir } from '../support/temp.ts'

export interface OutliveReport {
  kills: number
  jobs: number
  /** attempts beyond the first: commands that another agent took over */
  adoptions: number
  /** commands that were stopped gently in between, which must not be noticed either */
  drains: number
  violations: string[]
}

/** What each job's command does, and what must be said of it. */
const kinds = [
  { script: 'exit 0', state: 'succeeded', exit_code: 0 },
  { script: 'exit 3', state: 'failed', exit_code: 3 },
  { script: 'exit 143', state: 'failed', exit_code: 143 },
  { script: 'exit 5', expected: [5], state: 'succeeded', exit_code: 5 },
  { script: 'exec sleep 600', timeout: 2, state: 'failed', signal: 'SIGTERM' },
] as const

export async function outlive(o: {
  kills: number
  jobs: number
  long: number
  every_ms: number
  seed: number
}): Promise<OutliveReport> {
  await using dir = await tempDir()
  await using b = await bed(dir.path, {
    max_crashes: 10_000, // blows are no fault of the jobs
    lease: { timeout: '2s' }, // an agent that was killed while it looked after the dead keeps the next from it for as long
    concurrency: { weight: 8 },
    intake: { raw_keep: '200ms', bare_disks: 'off' },
    timeouts: { kill_grace: '1s' },
  })
  const report: OutliveReport = { kills: 0, jobs: o.jobs + o.long, adoptions: 0, drains: 0, violations: [] }
  let state = o.seed
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
  const runs = join(dir.path, 'runs')
  await writeFile(runs, '')
  const expected = new Map<string, (typeof kinds)[number]>()
  const dropOne = async (name: string, waits: string, kind: (typeof kinds)[number]) => {
    expected.set(name, kind)
    const argv = ['/bin/sh', '-c', `echo "${name} $$" >> ${runs}; echo begun; ${waits}; echo over; ${kind.script}`]
    const command = { argv, ...('expected' in kind ? { expected_exit_codes: kind.expected } : {}) }
    await drop(b, { ...commandManifest(name, argv), command, ...('timeout' in kind ? { timeout: kind.timeout } : {}) })
  }
  let agent: RunningAgent = await b.start()
  // These are there from the first agent to the last.
  for (let i = 0; i < o.long; i++)
    await dropOne(`long-${i}`, `until [ -e ${dir.path}/go ]; do sleep 0.05; done`, kinds[i % 4]!)

  for (let i = 0, dropped = 0; report.kills + report.drains < o.kills; i++) {
    for (const end = Math.ceil((o.jobs * (i + 1)) / o.kills); dropped < end && dropped < o.jobs; dropped++)
      await dropOne(`job-${dropped}`, `sleep 0.${Math.floor(random() * 10)}`, kinds[dropped % kinds.length]!)
    await sleep(random() * o.every_ms)
    if (random() < 0.15) {
      await agent.stop()
      report.drains++
    } else {
      await agent.kill()
      report.kills++
    }
    // Some are killed again while they start.
    agent = await b.start({ wait: random() < 0.75 })
  }
  if (!agent.alive()) agent = await b.start()
  await writeFile(join(dir.path, 'go'), '')
  for (const [name, kind] of expected) {
    const status = await endOf(b, name, 120_000)
    const told = { state: status.state, exit_code: status.exit_code, signal: status.signal }
    const wanted = {
      state: kind.state,
      exit_code: 'exit_code' in kind ? kind.exit_code : undefined,
      signal: 'signal' in kind ? kind.signal : undefined,
    }
    if (JSON.stringify(told) !== JSON.stringify(wanted))
      report.violations.push(
        `${name} ended as ${JSON.stringify(told)}, not as ${JSON.stringify(wanted)}: ${status.reason}`,
      )
    report.adoptions += Number(status.epoch)
    const log = await readFile(join(b.layout.outputJobs, status.id, 'log'), 'utf8')
    for (const word of ['begun', 'over']) {
      const times = log.match(new RegExp(` stdout F ${word}$`, 'gm'))?.length ?? 0
      if (times !== 1) report.violations.push(`The log of ${name} has "${word}" ${times} times.`)
    }
  }
  const lines = (await readFile(runs, 'utf8')).trim().split('\n')
  for (const name of expected.keys()) {
    const times = lines.filter((l) => l.startsWith(`${name} `)).length
    if (times !== 1) report.violations.push(`${name} ran ${times} times.`)
  }
  await agent.stop()
  return report
}

export function summary(r: OutliveReport): string {
  return `${r.jobs} commands, agents killed ${r.kills} and stopped ${r.drains} times, ${r.adoptions} commands taken over; ${r.violations.length} violations${r.violations.map((v) => `\n    ${v}`).join('')}`
}
