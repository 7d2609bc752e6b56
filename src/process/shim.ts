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
import { mkdirSync } from 'node:fs'
import { dirname } from 'node:path'
import { getSystemErrorName } from 'node:util'
import { errno } from './errno.ts'
import { SpawnError } from './run.ts'
import { environment, orders, perl, program, type ShimSpec } from './shim-orders.ts'
import { readExit, readProcess, type ShimExit, type ShimProcess } from './shim-state.ts'

/**
 * Starts a command under a shim. Returns when the command runs, or when the shim has recorded why it could not be started.
 * @throws SpawnError when there is no shim: perl is missing, no process can be made, the folder cannot be written
 */
export async function startShim(s: ShimSpec): Promise<{ process: ShimProcess } | { failed: ShimExit }> {
  mkdirSync(s.dir, { recursive: true, mode: 0o700 })
  mkdirSync(dirname(s.log.path), { recursive: true }) // a busy agent has not always made it by the command's first word
  const token = randomUUID()
  const told = Object.entries(orders(s, token)).flat()
  const input = [told.length, ...told, ...Object.entries(environment(s.env, token)).flat(), 'end'].join('\0')
  const child = spawn(perl, [program, s.dir, ...s.argv], {
    cwd: '/',
    detached: true,
    env: { PATH: process.env.PATH ?? '/usr/bin:/bin', LC_ALL: 'C' },
    stdio: ['pipe', 'ignore', 'ignore', 'pipe', ...(typeof s.stdin === 'number' ? [s.stdin] : [])],
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
  return e && { code: errno({ code: getSystemErrorName(-e.errno), errno: -e.errno }), step: e.step, message: e.message }
}
