// A real agent in a real process: started, watched, stopped and killed by tests.
import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { join, resolve } from 'node:path'
import { type Layout, layoutOf } from '../../src/spool/index.ts'
import { processesMarked, shimsBelow } from './leaks.ts'
import { until } from './wait.ts'

export const home = resolve(import.meta.dirname, '../..')
export const vmspool = join(home, 'bin/vmspool')

export interface Exit {
  code: number | null
  signal: NodeJS.Signals | null
}

export interface RunningAgent {
  pid: number
  /** everything the agent wrote so far */
  output(): string
  exited: Promise<Exit>
  alive(): boolean
  signal(name: NodeJS.Signals): void
  /** TERM, then waits for the end */
  stop(): Promise<Exit>
  /** KILL, then waits for the end */
  kill(): Promise<Exit>
}

/** One instance in a private folder with any number of agents; at the end of the block nothing of it is left running. */
export interface Bed extends AsyncDisposable {
  dir: string
  instance: string
  layout: Layout
  env: NodeJS.ProcessEnv
  agents: RunningAgent[]
  /** starts an agent and waits until it is ready */
  start(o?: { worker?: boolean; config?: object; wait?: boolean }): Promise<RunningAgent>
}

/**
 * @param dir a private folder, removed by whoever made it
 * @param config what goes into the agent's configuration file, as JSON (which is YAML)
 */
export async function bed(
  dir: string,
  config: object = {},
  more: { output?: string; prefix?: string[] } = {},
): Promise<Bed> {
  const instance = `t${randomUUID().slice(0, 8)}`
  const marker = randomUUID()
  const configFile = join(dir, 'agent.yaml')
  const runtime = join(dir, 'run')
  await mkdir(runtime, { mode: 0o700 })
  const env: NodeJS.ProcessEnv = {
    ...process.env,
    VMSPOOL_TEST_BED: marker,
    VMSPOOL_RUNTIME_DIR: runtime,
    NO_COLOR: '1',
  }
  for (const name of Object.keys(env)) if (/^(VITEST|NODE_ENV|TEST|DEV|PROD|MODE)/.test(name)) delete env[name]
  // where the tests keep a guest that several of them boot: no setting of the program
  delete env.VMSPOOL_GUEST_CACHE
  const layout = layoutOf({ root: dir, instance, ...(more.output ? { output: more.output } : {}) })
  const agents: RunningAgent[] = []
  let files = 0

  return {
    dir,
    instance,
    layout,
    env,
    agents,
    async start(o = {}) {
      const file = o.config ? join(dir, `agent-${files++}.yaml`) : configFile
      await writeFile(
        file,
        JSON.stringify({
          runtime_dir: runtime,
          ...config,
          ...(more.output ? { output: more.output } : {}),
          ...o.config,
        }),
      )
      const argv = ['agent', instance, '--root', dir, '--config', file, ...(o.worker ? ['--worker'] : [])]
      const [program, ...first] = [...(more.prefix ?? []), vmspool]
      const agent = watch(spawn(program!, [...first, ...argv], { env, stdio: ['ignore', 'pipe', 'pipe'], cwd: dir }))
      agents.push(agent)
      if (o.wait !== false) await ready(agent)
      return agent
    },
    async [Symbol.asyncDispose]() {
      for (const agent of agents) if (agent.alive()) agent.signal('SIGCONT')
      // A killed agent's children live on by design until another agent ends them; here no other agent follows.
      await until(
        'the processes of this bed are gone',
        () => {
          const left = processesMarked(`VMSPOOL_TEST_BED=${marker}`)
          for (const p of left) {
            try {
              process.kill(p.pid, 'SIGKILL')
            } catch {
              // ended by itself
            }
          }
          return left.length === 0 && shimsBelow(dir).length === 0 && shimsBelow(layout.output).length === 0
        },
        { every_ms: 50 },
      )
      await Promise.all(agents.map((a) => a.exited))
    },
  }
}

/** One request as the old client sends it: one JSON object without a newline, one object back (contracts A6). */
export async function control(b: Bed, command: string): Promise<Record<string, unknown>> {
  const socket = connect(join(b.layout.daemon, 'control.sock'))
  socket.write(JSON.stringify({ command }))
  const chunks: Buffer[] = []
  for await (const chunk of socket) chunks.push(chunk as Buffer)
  const reply = JSON.parse(Buffer.concat(chunks).toString())
  if (reply.status !== 'ok') throw new Error(`The agent answered ${command} with ${JSON.stringify(reply)}.`)
  return reply
}

function watch(child: ChildProcess): RunningAgent {
  const chunks: Buffer[] = []
  child.stdout!.on('data', (d: Buffer) => chunks.push(d))
  child.stderr!.on('data', (d: Buffer) => chunks.push(d))
  const output = () => Buffer.concat(chunks).toString()
  const exited = new Promise<Exit>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => resolve({ code, signal }))
  })
  let ended = false
  exited.then(
    () => {
      ended = true
    },
    () => {
      ended = true
    },
  )
  const send = (name: NodeJS.Signals) => void child.kill(name)
  return {
    pid: child.pid!,
    output,
    exited,
    alive: () => !ended && child.exitCode === null && child.signalCode === null,
    signal: send,
    stop() {
      send('SIGTERM')
      return exited
    },
    kill() {
      send('SIGKILL')
      return exited
    },
  }
}

/** An agent says when it is ready: its lease is there and, for a main agent, its sockets are open. */
async function ready(agent: RunningAgent): Promise<void> {
  await until(
    'the agent is ready',
    () => {
      if (!agent.alive()) throw new Error(`The agent ended before it was ready:\n${agent.output()}`)
      return agent.output().includes('"event":"agent.ready"')
    },
    { also: agent.output, every_ms: 5 },
  )
}
