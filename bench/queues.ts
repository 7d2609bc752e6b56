// The three queues under one interface: vmspool, and the peers task-spooler and nq as Debian packages them.
import { mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { type Bed, bed } from '../test/support/agent.ts'
import { until } from '../test/support/wait.ts'

export interface Queue extends AsyncDisposable {
  name: string
  /** hands a command to the queue; resolved when the queue has it */
  submit(argv: readonly string[]): Promise<void>
  /** hands over `n` times the same command, the way that is natural for many */
  submitMany(argv: readonly string[], n: number): Promise<void>
  /** until everything submitted has ended */
  drained(): Promise<void>
}

export async function vmspoolQueue(dir: string, weight: number): Promise<Queue & { bed: Bed; pid: number }> {
  const b = await bed(dir, { concurrency: { weight }, intake: { bare_disks: 'off' } })
  const agent = await b.start()
  let submitted = 0
  const drop = async (argv: readonly string[]) => {
    const name = `job-${submitted++}`
    const temp = join(b.layout.queue, `.${name}.json`)
    await writeFile(temp, JSON.stringify({ kind: 'command', name, command: { argv } }))
    await rename(temp, join(b.layout.queue, `${name}.json`))
  }
  return {
    name: 'vmspool',
    bed: b,
    pid: agent.pid,
    submit: drop,
    async submitMany(argv, n) {
      for (let i = 0; i < n; i++) await drop(argv)
    },
    drained: async () => {
      await until('all jobs have ended', async () => (await readdir(b.layout.done)).length >= submitted, {
        deadline_ms: 600_000,
        every_ms: 5,
        also: agent.output,
      })
    },
    [Symbol.asyncDispose]: async () => {
      await agent.stop()
      await b[Symbol.asyncDispose]()
    },
  }
}

export async function taskSpooler(dir: string, slots: number): Promise<Queue> {
  await mkdir(dir, { recursive: true })
  const env = { TS_SOCKET: join(dir, 'socket'), TMPDIR: dir, TS_MAXFINISHED: '100000' }
  await execa('tsp', ['-S', String(slots)], { env })
  return {
    name: 'task-spooler',
    submit: async (argv) => void (await execa('tsp', ['-n', ...argv], { env })),
    submitMany: async (argv, n) =>
      void (await execa(
        'sh',
        ['-c', `i=0; while [ $i -lt ${n} ]; do tsp -n "$@" >/dev/null; i=$((i+1)); done`, 'sh', ...argv],
        { env },
      )),
    drained: async () => {
      await until(
        'all jobs have ended',
        async () => !/\b(queued|running)\b/.test((await execa('tsp', ['-l'], { env })).stdout),
        {
          deadline_ms: 600_000,
          every_ms: 5,
        },
      )
    },
    [Symbol.asyncDispose]: async () => void (await execa('tsp', ['-K'], { env })),
  }
}

export async function nq(dir: string): Promise<Queue> {
  await mkdir(dir, { recursive: true })
  const env = { NQDIR: dir }
  return {
    name: 'nq',
    submit: async (argv) => void (await execa('nq', ['-q', ...argv], { env })),
    submitMany: async (argv, n) =>
      void (await execa('sh', ['-c', `i=0; while [ $i -lt ${n} ]; do nq -q "$@"; i=$((i+1)); done`, 'sh', ...argv], {
        env,
      })),
    drained: async () => void (await execa('nq', ['-w'], { env })),
    [Symbol.asyncDispose]: async () => void (await execa('nq', ['-w'], { env })),
  }
}

/** Submits a command that writes down when it began; milliseconds from the submission to that moment. */
export async function latency(q: Queue, dir: string, i: number): Promise<number> {
  const file = join(dir, `began-${q.name}-${i}`)
  const at = performance.timeOrigin + performance.now()
  await q.submit(['sh', '-c', `date +%s%N > ${file}.tmp; mv ${file}.tmp ${file}`])
  const text = await until('the command has begun', () => readFile(file, 'utf8').catch(() => undefined), {
    every_ms: 2,
  })
  return Number(text) / 1e6 - at
}
