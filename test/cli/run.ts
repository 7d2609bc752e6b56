// Runs the real command line in a process of its own.
import { spawn } from 'node:child_process'
import { vmspool } from '../support/agent.ts'

export interface Ran {
  code: number | null
  signal: NodeJS.Signals | null
  out: string
  err: string
}

export interface RunOptions {
  env?: NodeJS.ProcessEnv
  cwd?: string
  input?: string
  /** run on a terminal of its own (script(1)); everything then comes in `out` */
  terminal?: boolean
  /** called with what was printed so far, on both streams; may send a signal */
  onOutput?(text: string, kill: (signal: NodeJS.Signals) => void): void
}

export function cli(args: readonly string[], o: RunOptions = {}): Promise<Ran> {
  const env: NodeJS.ProcessEnv = { ...process.env, ...o.env }
  for (const name of Object.keys(env))
    if (/^(VITEST|NODE_ENV|VMSPOOL_(ROOT|INSTANCE)$)/.test(name) && !o.env?.[name]) delete env[name]
  if (o.terminal) {
    delete env.NO_COLOR
    env.TERM = 'xterm'
    env.COLUMNS = '120'
  }
  const quoted = [vmspool, ...args].map((a) => `'${a.replaceAll("'", "'\\''")}'`).join(' ')
  const [program, argv] = o.terminal
    ? ['script', ['-qec', `stty cols 120; ${quoted}`, '/dev/null']]
    : [vmspool, [...args]]
  return new Promise((resolve, reject) => {
    const child = spawn(program as string, argv as string[], {
      cwd: o.cwd,
      env,
      stdio: [o.input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
    })
    let out = ''
    let err = ''
    child.stdout!.setEncoding('utf8').on('data', (text: string) => {
      out += text
      o.onOutput?.(out + err, (s) => child.kill(s))
    })
    child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      err += text
      o.onOutput?.(out + err, (s) => child.kill(s))
    })
    if (o.input !== undefined) child.stdin!.end(o.input)
    child.on('error', reject)
    child.on('close', (code, signal) => resolve({ code, signal, out, err }))
  })
}
