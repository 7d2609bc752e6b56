/** The options of `vmspool run` that need more than a look: loaded when one of them is given. */
import { resolve } from 'node:path'
import type { RunOptions } from '../client/run.ts'
import { safeName, unsafeNameReason } from '../manifest/safe-name.ts'
import { durationHint, parseDuration } from '../text/units.ts'
import { CliError, exitCodes } from './errors.ts'

type Typed = Readonly<Record<string, readonly string[]>>

const signals = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2', 'SIGKILL']

export async function rareOptions(typed: Typed): Promise<RunOptions> {
  const o: RunOptions = {}
  const name = typed.name?.[0]
  if (name !== undefined) {
    if (!safeName(name)) throw wrong(`option '--name': ${unsafeNameReason(name)}.`)
    o.name = name
  }
  const timeout = milliseconds('timeout', typed.timeout?.[0])
  if (timeout !== undefined && timeout > 0) o.timeout_ms = timeout
  const grace = milliseconds('grace', typed.grace?.[0])
  if (grace !== undefined) o.kill_grace_ms = grace
  const signal = typed['kill-signal']?.[0]
  if (signal !== undefined) {
    const full = `SIG${signal.toUpperCase().replace(/^SIG/, '')}`
    if (!signals.includes(full))
      throw wrong(`option '--kill-signal' is ${JSON.stringify(signal)}; it must be one of ${signals.join(', ')}.`)
    o.kill_signal = full
  }
  const files = typed['env-file']
  if (files !== undefined) o.env_files = files.map((f) => resolve(f))
  return o
}

function milliseconds(option: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const ms = parseDuration(/^\d+(\.\d+)?$/.test(text.trim()) ? Number(text) : text)
  if (ms === undefined) throw wrong(`option '--${option}' is ${JSON.stringify(text)}; it must be ${durationHint}.`)
  return ms
}

function wrong(text: string): CliError {
  return new CliError(exitCodes.usage, `run: ${text}`)
}
