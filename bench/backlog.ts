// What it costs to have many jobs waiting: a spool with n accepted jobs is written directly, as agents would have left it.
import { mkdirSync, writeFileSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { openSpool, setPaused } from '../src/spool/index.ts'
import { jobName, keyOf, laneFolder, ticketName, ulidMaker } from '../src/spool/names.ts'
import { bed } from '../test/support/agent.ts'
import { until } from '../test/support/wait.ts'
import { cpuMs, memoryMiB, settle } from './measure.ts'

export interface BacklogFigures {
  waiting: number
  start_ms: number
  rss_mib: number
  jobs_per_s: number
  cpu_ms_per_job: number
}

/** Start-up and memory with `n` jobs waiting in a paused instance, then the speed of the first `sample` dispatches. */
export async function backlog(dir: string, n: number, sample: number): Promise<BacklogFigures> {
  await using b = await bed(dir, { concurrency: { weight: 2 }, intake: { bare_disks: 'off' } })
  await (await b.start()).stop()
  const s = await openSpool({ layout: b.layout })
  await setPaused(s, true, 'the benchmark')
  write(b.layout, n)
  await settle(dir)

  const at = performance.now()
  const agent = await b.start()
  const start_ms = performance.now() - at
  const { now: rss_mib } = memoryMiB(agent.pid)
  const cpu = cpuMs(agent.pid)
  await setPaused(s, false, 'the benchmark')
  const ended = async () => (await readdir(b.layout.done)).length
  await until('the first job has ended', async () => (await ended()) > 0, {
    deadline_ms: 120_000,
    every_ms: 2,
    also: agent.output,
  })
  const from = await ended()
  const since = performance.now()
  await until('the sample has ended', async () => (await ended()) >= from + sample, {
    deadline_ms: 300_000,
    every_ms: 5,
  })
  const count = (await ended()) - from
  const seconds = (performance.now() - since) / 1000
  const cpu_ms_per_job = (cpuMs(agent.pid) - cpu) / (count + from)
  await agent.kill()
  return { waiting: n, start_ms, rss_mib, jobs_per_s: count / seconds, cpu_ms_per_job }
}

function write(layout: { new: string; lanes: string }, n: number): void {
  const newId = ulidMaker(
    () => Date.now(),
    (bytes) => crypto.getRandomValues(new Uint8Array(bytes)),
  )
  const folders = new Set<string>()
  const at = new Date().toISOString()
  for (let i = 0; i < n; i++) {
    const answer = `waiting-${i}`
    const id = newId()
    const key = keyOf(answer)
    const name = jobName({ priority: 5, id, key, ticket: 1, epoch: 0, failures: 0, crashes: 0 })
    const folder = join(layout.lanes, laneFolder(key))
    if (!folders.has(folder)) {
      folders.add(folder)
      mkdirSync(folder, { recursive: true })
    }
    writeFileSync(join(folder, ticketName(key, 1, id)), '')
    const manifest = { kind: 'command', name: answer, priority: 5, command: { argv: ['true'] } }
    const drop = { file: `${answer}.json`, at, uid: 0, gid: 0, bytes: 100, sha256: '' }
    writeFileSync(
      join(layout.new, name.file),
      JSON.stringify({ schema: 1, id, kind: 'command', answer, manifest, drop, diagnostics: [] }),
    )
  }
}
