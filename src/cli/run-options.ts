/** The options of `vmspool run` that need more than a look: loaded when one of them is given. */
import { resolve } from 'node:path'
import type { RunOptions } from '../client/run.ts'
import { safeName, unsafeNameReason } from '../manifest/safe-name.ts'
import { withExtras } from '../client/run-extras.ts'
import { durationHint, parseDuration, parseSize, sizeHint } from '../text/units.ts'
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
  const limits = limitsOf(typed)
  if (Object.keys(limits).length > 0) o.limits = limits
  return withExtras(o, (warning) => process.stderr.write(`vmspool: ${warning}\n`))
}

/** As a normalised manifest has them. */
function limitsOf(typed: Typed): Record<string, unknown> {
  const l: Record<string, unknown> = {}
  const nice = number(typed, 'nice', (n) => Number.isInteger(n) && n >= -20 && n <= 19, 'a whole number from -20 to 19')
  if (nice !== undefined) l.nice = nice
  const io = typed.ionice?.[0]
  if (io !== undefined) {
    const m = /^(idle|best-effort|realtime)(?::([0-7]))?$/.exec(io)
    if (!m)
      throw wrong(
        `option '--ionice' is ${JSON.stringify(io)}; it must be idle, best-effort or realtime, such as best-effort:7.`,
      )
    l.ionice = m[1]
    if (m[2] !== undefined) l.ionice_level = Number(m[2])
  }
  const memory = typed.memory?.[0]
  if (memory !== undefined) {
    l.memory = memory
    l.memory_bytes = parseSize(/^\d+$/.test(memory) ? Number(memory) : memory)
    if (!l.memory_bytes) throw wrong(`option '--memory' is ${JSON.stringify(memory)}; it must be ${sizeHint}.`)
  }
  const cpu = number(typed, 'cpu', (n) => n >= 0.01 && n <= 4096, 'a number of processors such as 0.5 or 2')
  if (cpu !== undefined) l.cpu = cpu
  const time = milliseconds('cpu-time', typed['cpu-time']?.[0])
  if (time !== undefined) Object.assign(l, { cpu_time: time / 1000, cpu_time_ms: time })
  const whole = (n: number): boolean => Number.isInteger(n) && n > 0
  const files = number(typed, 'open-files', (n) => whole(n) && n > 2, 'a whole number, at least 3')
  if (files !== undefined) l.open_files = files
  const processes = number(typed, 'processes', whole, 'a whole number')
  if (processes !== undefined) l.processes = processes
  return l
}

function number(typed: Typed, option: string, fits: (n: number) => boolean, hint: string): number | undefined {
  const text = typed[option]?.[0]
  if (text === undefined) return undefined
  const n = Number(text)
  if (text.trim() === '' || Number.isNaN(n) || !fits(n))
    throw wrong(`option '--${option}' is ${JSON.stringify(text)}; it must be ${hint}.`)
  return n
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
