/**
 * Commands that outlive whoever started them. A small perl process, the shim (shim.pl), stays with each from its start to its
 * end: it writes the log, enforces the timeout, ends the whole tree and records exit code, signal and times in its folder.
 *
 *     <dir>/process.json   who it is; written before the command starts
 *     <dir>/control        a FIFO for orders, so that no pid is needed to stop it; without a reader the shim is gone
 *     <dir>/exit.json      how it ended; written once, whole, by the shim alone
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { existsSync, mkdirSync } from 'node:fs'
import { hostname } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { getSystemErrorName } from 'node:util'
import { bootId, GROUP_TOKEN_VARIABLE, pidNamespace } from './identity.ts'
import { SpawnError } from './run.ts'
import { readExit, readProcess, type ShimExit, type ShimProcess } from './shim-state.ts'

/** Where a job without an agent is recorded by its shim when it ends: paths of its files, and of its record before and after. */
export interface DirectFinish {
  id: string
  /** answer name */
  name: string
  /** status.json, written with JSON.stringify(status, null, 2): the shim changes it line by line */
  status: string
  result: string
  record: string
  done: string
  failed: string
  cancelled: string
  /** events.jsonl */
  events: string
  /** what its sentences begin with: "sleep 5" */
  title: string
}

export interface ShimSpec {
  dir: string
  argv: readonly string[]
  cwd: string
  /** changes to our own environment; undefined removes a variable */
  env: Readonly<Record<string, string | undefined>>
  /** path; default /dev/null */
  stdin?: string
  log: { path: string; mode?: number; max_bytes: number; max_age_ms: number; total_bytes: number }
  timeout_ms?: number
  /** default SIGTERM */
  kill_signal?: string
  kill_grace_ms: number
  /** exit codes that count as success; default 0 */
  expected?: readonly number[]
  /** fsync its records; default true */
  fsync?: boolean
  finish?: DirectFinish
}

const program = ((): string => {
  const here = dirname(fileURLToPath(import.meta.url))
  // In a checkout beside this file; in a built package in dist/, wherever the bundler put this code.
  return [join(here, 'shim.pl'), join(here, '../shim.pl')].find(existsSync) ?? join(here, 'shim.pl')
})()
const perl = existsSync('/usr/bin/perl') ? '/usr/bin/perl' : 'perl'

function environment(changes: ShimSpec['env'], token: string): string[] {
  const env: Record<string, string | undefined> = { ...process.env, ...changes, [GROUP_TOKEN_VARIABLE]: token }
  return Object.entries(env).flatMap(([name, value]) => (value === undefined ? [] : [name, value]))
}

function orders(s: ShimSpec, token: string): Record<string, string | number> {
  const { finish: f } = s
  return {
    arch: process.arch,
    log: s.log.path,
    log_mode: (s.log.mode ?? 0o640).toString(8),
    log_max: s.log.max_bytes,
    log_age: s.log.max_age_ms,
    log_total: s.log.total_bytes,
    timeout: s.timeout_ms ?? 0,
    kill_signal: s.kill_signal ?? 'SIGTERM',
    grace: s.kill_grace_ms,
    expected: (s.expected ?? [0]).join(','),
    stdin: s.stdin ?? '/dev/null',
    cwd: s.cwd,
    token,
    host: hostname(),
    pidns: pidNamespace(),
    boot_id: bootId(),
    fsync: s.fsync === false ? '' : 1,
    ...(f && { ...f, name: JSON.stringify(f.name), title: JSON.stringify(f.title).slice(1, -1) }),
  }
}

/**
 * Starts a command under a shim. Returns when the command runs, or when the shim has recorded why it could not be started.
 * @throws SpawnError when there is no shim: perl is missing, no process can be made, the folder cannot be written
 */
export async function startShim(s: ShimSpec): Promise<{ process: ShimProcess } | { failed: ShimExit }> {
  mkdirSync(s.dir, { recursive: true, mode: 0o700 })
  const token = randomUUID()
  const told = Object.entries(orders(s, token)).flat()
  const input = [told.length, ...told, ...environment(s.env, token), 'end'].join('\0')
  const child = spawn(perl, [program, s.dir, ...s.argv], {
    cwd: '/',
    detached: true,
    env: { PATH: process.env.PATH ?? '/usr/bin:/bin', LC_ALL: 'C' },
    stdio: ['pipe', 'ignore', 'ignore', 'pipe'],
  })
  const said = await report(child, input)
  if (said.startsWith('ok ')) {
    const found = readProcess(s.dir)
    child.unref() // it stays without us
    if (found) return { process: found }
  }
  if (said.startsWith('failed ')) {
    const failed = readExit(s.dir) ?? (await written(child, () => readExit(s.dir)))
    if (failed) return { failed }
  }
  throw new SpawnError(
    `The shim that carries "${s.argv[0]}" could not be started (${perl} ${program}): ${said.trim() || 'it ended without a word'}.`,
    'ESHIM',
    undefined,
  )
}

/** What the shim says once: that the command runs, or why not. */
function report(child: ChildProcess, input: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = ''
    child.once('error', (error: NodeJS.ErrnoException) => {
      const why =
        error.code === 'ENOENT' ? 'perl is not installed (on Debian: apt-get install perl-base)' : error.message
      reject(new SpawnError(`A command needs the shim, which could not be started: ${why}.`, error.code ?? '', error))
    })
    child.stdin?.on('error', () => {}) // it died before it read: the report is empty then
    child.stdin?.end(input)
    const from = child.stdio[3]
    from?.on('data', (chunk: Buffer) => {
      text += chunk.toString()
    })
    from?.on('close', () => resolve(text))
  })
}

/** The record of a failed start comes a moment after its report: when the shim has ended it is there. */
function written<T>(child: ChildProcess, read: () => T): Promise<T> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve(read())
  return new Promise((resolve) => child.once('exit', () => resolve(read())))
}

/** What could not be done when a command was not started, as errno's name and a sentence's end. */
export function startFailure(exit: ShimExit): { code: string; step: string; message: string } | undefined {
  const e = exit.spawn_error
  return e && { code: getSystemErrorName(-e.errno), step: e.step, message: e.message }
}
