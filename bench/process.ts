// `npm run bench:process [-- --quick] [-- --write] [-- SECTION…]`: starting commands without an agent against task-spooler, nq and plain
// setsid in one run, what stays beside them, how fast their logs are, and lists of finished jobs. Run by hand; fails nothing.
// Sections: start, throughput, memory, log, history.
import { createWriteStream } from 'node:fs'
import { mkdtemp, rm, stat } from 'node:fs/promises'
import { availableParallelism, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { execa } from 'execa'
import { startShim, waitShim } from '../src/process/index.ts'
import { historyBench } from './history.ts'
import { format, fsyncCost, machine, percentile, settle, table, writePart } from './measure.ts'
import { vmspoolQueue } from './queues.ts'
import {
  installed,
  memoryPerCommand,
  nqRun,
  type Runner,
  setsid,
  taskSpoolerRun,
  throughput,
  type Timing,
  timeInTurn,
  vmspoolRun,
} from './runners.ts'

const quick = process.argv.includes('--quick')
const chosen = process.argv.slice(2).filter((a) => !a.startsWith('-'))
const wanted = (section: string) => chosen.length === 0 || chosen.includes(section)
const dir = await mkdtemp(join(tmpdir(), 'vsproc-'))
const vmspool = await installed(dir)
const out: string[] = []
const aims: string[] = []
const say = (text: string) => {
  out.push(text)
  process.stdout.write(`${text}\n`)
}
let folders = 0
const fresh = async () => {
  await settle(dir)
  return mkdtemp(join(dir, `p${folders++}-`))
}
const slots = Math.max(2, availableParallelism())
const median = (values: readonly number[]) => percentile(values, 50)

try {
  const load = loadavg()[0]!
  say(`Machine: ${await machine(dir)}. Load average at the start: ${load.toFixed(1)}.`)
  if (wanted('start')) await starts()
  if (wanted('throughput')) await rates()
  if (wanted('memory')) await memory()
  if (wanted('log')) await logs()
  if (wanted('history')) await historyBench(vmspool, await fresh(), { quick, say, aim })
  say(`\nLoad average at the end: ${loadavg()[0]!.toFixed(1)}.`)
  if (aims.length > 0) say(`\nAims:\n\n${aims.join('\n')}`)
  if (process.argv.includes('--write')) await writePart('process', out)
} finally {
  await rm(dir, { recursive: true, force: true })
}

function aim(what: string, measured: number, most: number): void {
  aims.push(`- ${what}: at most ${most}. Measured ${format(measured)}: **${measured <= most ? 'met' : 'missed'}**.`)
}

async function starts(): Promise<void> {
  const rounds = quick ? 20 : 100
  const cost = await fsyncCost(dir)
  await using plain = await setsid()
  await using fast = await vmspoolRun(vmspool, await fresh(), false)
  await using durable = await vmspoolRun(vmspool, await fresh(), true)
  await using tsp = await taskSpoolerRun(await fresh(), slots)
  await using nq = await nqRun(await fresh(), 'after the other')
  // With a variable more `run` goes by way of Node.
  const byNode: Runner = { ...fast, name: 'vmspool run --no-fsync -e A=b', before: fast.before.with(-1, '-eA=b') }
  const runners: Runner[] = [plain, fast, durable, byNode, tsp, nq]
  const lines = [...runners.map((runner) => ({ runner })), { argv: [process.execPath, '-e', ''] }]
  timeInTurn(dir, 3, lines) // fills caches
  const times = timeInTurn(dir, rounds, lines)
  const node = times.at(-1)!
  const { back, cpu } = times[0]!
  const rows: (string | number)[][] = []
  for (const [i, r] of runners.entries()) {
    const t = times[i]!
    rows.push([
      r.name,
      median(t.back),
      percentile(t.back, 99),
      Math.min(...t.back),
      median(t.back) / median(back),
      Math.min(...t.cpu),
      Math.min(...t.cpu) / Math.min(...cpu),
      median(t.began),
      percentile(t.began, 99),
    ])
  }
  // Each round has its own start of Node beside it, under the same load.
  const beyond = (t: Timing) => median(t.back.map((b, k) => b - node.back[k]!)) / median(back)
  aim('`vmspool run --no-fsync` beyond Node’s start, in times of `setsid`', Math.max(0, beyond(times[1]!)), 3)
  aim('the same with `-e A=b`, by way of Node', Math.max(0, beyond(times[3]!)), 3)
  say(
    `\nFrom the call until it comes back, and until the first instruction of the command (\`sh -c date\`), ${rounds} times in turn. Everything is counted: where \`vmspool run\` needs Node its start is in it (\`node -e ''\`: median ${format(median(node.back))} ms, least ${format(Math.min(...node.back))} ms, CPU ${format(Math.min(...node.cpu))} ms). CPU: the least, which other load changes little. One fsync of a small file here: ${format(cost.file_p50_ms)} ms, of a folder: ${format(cost.folder_p50_ms)} ms.\n`,
  )
  say(
    table(
      [
        'runner',
        'back p50 ms',
        'p99 ms',
        'least ms',
        'p50 to setsid',
        'CPU ms',
        'CPU to setsid',
        'begun p50 ms',
        'p99 ms',
      ],
      rows,
    ),
  )
}

async function rates(): Promise<void> {
  const n = quick ? 60 : 300
  const rows: (string | number)[][] = []
  let reference = Number.NaN
  const runners = [
    () => setsid(),
    async () => vmspoolRun(vmspool, await fresh(), false),
    async () => vmspoolRun(vmspool, await fresh(), true),
    async () => taskSpoolerRun(await fresh(), slots),
    async () => nqRun(await fresh(), 'after the other'),
  ]
  for (const make of runners) {
    await using r = await make()
    const { submitted, ended } = await throughput(r, dir, n)
    if (r.name === 'setsid') reference = ended
    rows.push([r.name, ended, submitted, ended / reference])
  }
  {
    const work = await fresh()
    await using r = await vmspoolRun(vmspool, work, true)
    const file = join(work, 'done')
    const line = `sh -c 'echo x >> ${file}'`
    const at = performance.now()
    for (let i = 0; i < n; i += 30)
      await execa(r.before[0]!, [...r.before.slice(1), ...Array<string>(30).fill(line)], {
        env: r.env,
        stdin: 'ignore',
      })
    const submitted = n / ((performance.now() - at) / 1000)
    while (!(await r.idle())) await new Promise((resolve) => setTimeout(resolve, 5))
    const ended = n / ((performance.now() - at) / 1000)
    rows.push(['vmspool run, 30 commands a call', ended, submitted, ended / reference])
  }
  {
    const jobs = quick ? 200 : 1000
    await using q = await vmspoolQueue(await fresh(), slots)
    const at = performance.now()
    await q.submitMany(['true'], jobs)
    const submitted = jobs / ((performance.now() - at) / 1000)
    await q.drained()
    const ended = jobs / ((performance.now() - at) / 1000)
    rows.push([`vmspool agent, ${slots} at once`, ended, submitted, ended / reference])
  }
  say(
    `\n${n} times \`sh -c 'echo x >> file'\`, one call after the other, from the first call to the last end (task-spooler: ${slots} at once, nq: one, the others: all); through an agent, \`true\` from manifests:\n`,
  )
  say(table(['runner', 'commands/s', 'calls or commands taken/s', 'commands/s to setsid'], rows))
}

async function memory(): Promise<void> {
  const n = quick ? 20 : 100
  const rows: (string | number)[][] = []
  const runners = [
    async () => vmspoolRun(vmspool, await fresh(), true),
    async () => taskSpoolerRun(await fresh(), n + 1),
    async () => nqRun(await fresh(), 'by side'),
  ]
  for (const make of runners) {
    await using r = await make()
    const { processes, pss, own } = await memoryPerCommand(r, n)
    rows.push([r.name, processes, pss, own])
  }
  say(`\nWhat stays beside ${n} sleeping commands, per command, in KiB:\n`)
  say(table(['runner', 'processes', 'PSS KiB', 'private KiB'], rows))
}

async function logs(): Promise<void> {
  const bytes = quick ? 40e6 : 200e6
  const kinds: [string, number][] = [
    ['lines of 80 bytes', 80],
    ['lines of 4096 bytes', 4096],
    ['one line', 0],
  ]
  const rows: (string | number)[][] = []
  for (const [name, length] of kinds) {
    const source = join(dir, 'source')
    await pipeline(function* () {
      const line = Buffer.concat([Buffer.alloc(Math.max(1, length - 1), 'x'), Buffer.from(length ? '\n' : '')])
      const block = Buffer.concat(Array<Buffer>(Math.ceil(65536 / line.length)).fill(line))
      for (let n = 0; n < bytes; n += block.length) yield block
    }, createWriteStream(source))
    const { size } = await stat(source)
    const rate = (ms: number) => size / 1e6 / (ms / 1000)
    const runs = quick ? 1 : 3
    const redirect: number[] = []
    const pipe: number[] = []
    const shim: number[] = []
    const rotated: number[] = []
    for (let i = 0; i < runs; i++) {
      redirect.push(rate(await shell(`cat ${source} > ${dir}/out`)))
      pipe.push(rate(await shell(`cat ${source} | cat > ${dir}/out`)))
      shim.push(rate(await underShim(source, { max_bytes: 1e12, max_age_ms: 0, total_bytes: 2e12 })))
      rotated.push(rate(await underShim(source, { max_bytes: 10e6, max_age_ms: 0, total_bytes: 100e6 })))
    }
    rows.push([name, median(redirect), median(pipe), median(shim), median(shim) / median(redirect), median(rotated)])
    await rm(source)
  }
  say(`\nOutput of \`cat\` of ${Math.round(bytes / 1e6)} MB from the page cache, MB/s, medians of ${quick ? 1 : 3}:\n`)
  say(table(['output', '> file', '| cat > file', 'under the shim', 'to > file', 'rotated at 10 MB, gzip'], rows))
}

async function shell(script: string): Promise<number> {
  await rm(join(dir, 'out'), { force: true })
  const at = performance.now()
  await execa('setsid', ['-w', 'sh', '-c', script])
  return performance.now() - at
}

async function underShim(
  source: string,
  log: { max_bytes: number; max_age_ms: number; total_bytes: number },
): Promise<number> {
  const work = await fresh()
  const at = performance.now()
  const run = join(work, 'run')
  await startShim({
    dir: run,
    argv: ['cat', source],
    cwd: work,
    env: {},
    log: { path: join(work, 'log'), ...log },
    kill_grace_ms: 1000,
    fsync: false,
  })
  const end = await waitShim(run)
  const took = performance.now() - at
  if (end.state !== 'ended' || end.exit.exit_code !== 0)
    throw new Error(`cat under the shim is ${JSON.stringify(end)}.`)
  await rm(work, { recursive: true })
  return took
}
