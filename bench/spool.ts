// `npm run bench:spool [-- --quick] [-- --write]`: the spool against task-spooler and nq in one run, and against itself with
// many jobs waiting. Run by hand; fails nothing. --quick leaves out a million waiting jobs, --write puts the result into
// docs/benchmarks.md. Works on the file system of $TMPDIR.
import { mkdtemp, rm } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { eventsOf } from '../test/support/results.ts'
import { until } from '../test/support/wait.ts'
import { backlog } from './backlog.ts'
import {
  countFsyncs,
  cpuMs,
  format,
  fsyncCost,
  machine,
  memoryMiB,
  percentile,
  settle,
  table,
  writePart,
} from './measure.ts'
import { latency, nq, type Queue, taskSpooler, vmspoolQueue } from './queues.ts'

const quick = process.argv.includes('--quick')
const dir = await mkdtemp(join(tmpdir(), 'vsbench-'))
const out: string[] = []
const say = (text: string) => {
  out.push(text)
  process.stdout.write(`${text}\n`)
}
let folders = 0
const fresh = async () => {
  await settle(dir)
  return mkdtemp(join(dir, `b${folders++}-`))
}

try {
  say(`Machine: ${await machine(dir)}.\n`)
  const cost = await fsyncCost(dir)
  say('One fsync on this file system, alone:\n')
  say(
    table(
      ['fsync of', 'p50 ms', 'p99 ms'],
      [
        ['a new file of 4 KiB', cost.file_p50_ms, cost.file_p99_ms],
        ['a folder after a rename', cost.folder_p50_ms, cost.folder_p99_ms],
      ],
    ),
  )
  const slots = Math.max(2, availableParallelism())
  await latencies(slots)
  await throughput(slots)
  await fsyncs(slots)
  await idle()
  await backlogs()
  if (process.argv.includes('--write')) await writePart('spool', out)
} finally {
  await rm(dir, { recursive: true, force: true })
}

async function queues(slots: number): Promise<Queue[]> {
  return [await vmspoolQueue(await fresh(), slots), await taskSpooler(await fresh(), slots), await nq(await fresh())]
}

async function latencies(slots: number): Promise<void> {
  const rounds = quick ? 50 : 200
  const rows: (string | number)[][] = []
  let ours = Number.NaN
  let handler = ''
  for (const q of await queues(slots)) {
    await using queue = q
    const values: number[] = []
    for (let i = 0; i < 5; i++) await latency(queue, dir, -1 - i)
    for (let i = 0; i < rounds; i++) values.push(await latency(queue, dir, i))
    await queue.drained()
    const p50 = percentile(values, 50)
    if (queue.name === 'vmspool') {
      ours = p50
      handler = await handlerStart(queue as Awaited<ReturnType<typeof vmspoolQueue>>, rounds)
    }
    rows.push([queue.name, p50, percentile(values, 99), p50 / ours])
  }
  say(
    `\nFrom the submission to the first instruction of the command (\`sh -c date\`), idle queue, ${rounds} times one after the other:\n`,
  )
  say(table(['queue', 'p50 ms', 'p99 ms', 'p50 to vmspool'], rows))
  say(`\n${handler}`)
}

/** Drop → start of the handler, without the process that it then starts: both ends on one clock, in whole milliseconds. */
async function handlerStart(q: Awaited<ReturnType<typeof vmspoolQueue>>, rounds: number): Promise<string> {
  const waits: number[] = []
  for (let i = 0; i < rounds; i++) {
    const before = (await eventsOf(q.bed, 'started')).length
    const at = Date.now()
    await q.submit(['true'])
    const started = await until('it started', async () => (await eventsOf(q.bed, 'started'))[before], { every_ms: 2 })
    waits.push(Date.parse(started.at) - at)
    await q.drained()
  }
  return `Drop to handler start (before its process is started): p50 ${percentile(waits, 50)} ms, p99 ${percentile(waits, 99)} ms.`
}

async function throughput(slots: number): Promise<void> {
  const jobs = quick ? 200 : 1000
  const rows: (string | number)[][] = []
  let ours = Number.NaN
  for (const q of await queues(slots)) {
    await using queue = q
    const at = performance.now()
    await queue.submitMany(['true'], jobs)
    const submitted = performance.now() - at
    await queue.drained()
    const rate = jobs / ((performance.now() - at) / 1000)
    if (queue.name === 'vmspool') ours = rate
    rows.push([queue.name, rate, jobs / (submitted / 1000), rate / ours])
  }
  say(`\n${jobs} times \`true\`, ${slots} at once (nq: one), from the first submission to the last end:\n`)
  say(table(['queue', 'jobs/s', 'submissions/s', 'jobs/s to vmspool'], rows))
  say(
    '\nvmspool makes acceptance, claim and result of each job durable; the peers keep their queue in memory or in files that are not synced.',
  )
}

async function fsyncs(slots: number): Promise<void> {
  await using q = await vmspoolQueue(await fresh(), slots)
  const single = 50
  const alone = await countFsyncs(q.pid, async () => {
    for (let i = 0; i < single; i++) {
      await q.submit(['true'])
      await q.drained()
    }
  })
  const many = quick ? 200 : 500
  const burst = await countFsyncs(q.pid, async () => {
    await q.submitMany(['true'], many)
    await q.drained()
  })
  say('\nfsync and fdatasync calls of the agent (strace -c):\n')
  say(
    table(
      ['jobs', 'calls', 'calls per job'],
      [
        [`${single}, one after the other`, alone, alone / single],
        [`${many} at once`, burst, burst / many],
      ],
    ),
  )
}

async function idle(): Promise<void> {
  await using q = await vmspoolQueue(await fresh(), 2)
  await sleep(5_000)
  const seconds = quick ? 10 : 30
  const before = cpuMs(q.pid)
  await sleep(seconds * 1000)
  const percent = (cpuMs(q.pid) - before) / (seconds * 10)
  say(`\nIdle agent over ${seconds} s: ${format(percent)} % of a core, ${format(memoryMiB(q.pid).now)} MiB resident.`)
}

async function backlogs(): Promise<void> {
  const sizes = quick ? [1_000, 10_000] : [1_000, 10_000, 100_000, 1_000_000]
  const rows: (string | number)[][] = []
  let first = Number.NaN
  for (const n of sizes) {
    const f = await backlog(await fresh(), n, 500)
    if (Number.isNaN(first)) first = f.jobs_per_s
    rows.push([n.toLocaleString('en-US'), f.start_ms, f.rss_mib, f.jobs_per_s, f.cpu_ms_per_job, f.jobs_per_s / first])
  }
  say('\nWith jobs waiting: start-up until ready, resident memory then, and the first 500 dispatches of `true`:\n')
  say(table(['waiting', 'start ms', 'RSS MiB', 'jobs/s', 'agent CPU ms/job', 'jobs/s to 1,000'], rows))
}
