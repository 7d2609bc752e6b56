/**
 * `vmspool run`, on its short way: read by hand and with few imports, for it has to be done when others have just loaded their parser of
 * options. commands/run.ts describes the same options to `--help`.
 */
import { resolve } from 'node:path'
import { CliError, exitCodes, explain } from './errors.ts'
import { prepareRun, type RunOptions, type StartedRun, startPrepared, startRun, withSpool } from '../client/run.ts'
import { type RunPlace, runPlace } from '../client/run-place.ts'
import { becomeShim } from '../process/shim-orders.ts'
import type { JobStatus } from '../client/status.ts'
import type { Layout } from '../spool/layout.ts'
import { guardStdout } from './stdout.ts'
import { commandTitle, hasBlank, splitWords } from '../text/words.ts'

/** Every option of `run`: long name, short one, whether it takes a value, whether it may be given several times. */
export const runFlags: Readonly<Record<string, { short?: string; value?: string; many?: boolean; about: string }>> = {
  cwd: { short: 'c', value: 'dir', about: 'the working directory (default: this one)' },
  env: {
    short: 'e',
    value: 'name=value',
    many: true,
    about: 'a variable for the command; NAME alone takes the value from here. What looks like a secret is not stored',
  },
  'env-file': { value: 'file', many: true, about: 'a file of NAME=value lines' },
  name: {
    value: 'name',
    about: 'what the job is called (default: as its program); with several commands NAME-1, NAME-2, …',
  },
  timeout: { value: 'duration', about: 'end it after this long' },
  grace: {
    value: 'duration',
    about: 'between the signal that asks it to end and SIGKILL (default: timeouts.kill_grace, 10s)',
  },
  'kill-signal': { value: 'signal', about: 'what asks it to end (default: SIGTERM)' },
  expect: { value: 'codes', about: 'exit codes that count as success, such as 0,1 (default: 0)' },
  stdin: { value: 'file', about: 'its standard input (default: /dev/null)' },
  nice: { value: 'n', about: 'as nice(1): 19 is last; below 0 needs root' },
  ionice: { value: 'class', about: 'idle, best-effort or realtime, with a level such as best-effort:7' },
  memory: { value: 'size', about: 'of all its processes together under systemd, else address space of each' },
  cpu: { value: 'n', about: 'processors, such as 0.5; needs systemd' },
  'cpu-time': { value: 'duration', about: 'processor time of each of its processes' },
  'open-files': { value: 'n', about: 'open files of each of its processes' },
  processes: { value: 'n', about: 'its processes under systemd, else those of its user' },
  'no-fsync': { about: 'do not wait for the disk: a power loss may lose the record' },
  output: { short: 'o', value: 'table|json|name', about: 'how to print what was started' },
  instance: { value: 'name', about: 'the instance (default: $VMSPOOL_INSTANCE, else "default")' },
  root: {
    value: 'dir',
    about:
      "the folder of all spools (default: $VMSPOOL_ROOT, else /var/lib/vmspool for root, the user's own for others)",
  },
  config: { value: 'file', about: 'read this configuration file too' },
}

const byShort = new Map(Object.entries(runFlags).flatMap(([name, f]) => (f.short ? [[f.short, name] as const] : [])))

type Typed = Record<string, string[]>

/** Options end where the command begins, so that those of the command need no `--`. */
function readArguments(args: readonly string[]): { typed: Typed; rest: string[] } | 'help' {
  const typed: Typed = {}
  let i = 0
  for (; i < args.length; i++) {
    const arg = args[i]!
    if (arg === '--') {
      i++
      break
    }
    if (!arg.startsWith('-') || arg === '-') break
    if (arg === '-h' || arg === '--help') return 'help'
    const long = /^--([^=]+)(?:=([\s\S]*))?$/.exec(arg)
    const name = long ? long[1]! : (byShort.get(arg[1]!) ?? '')
    const flag = Object.hasOwn(runFlags, name) ? runFlags[name]! : undefined
    if (flag === undefined) throw usage(`unknown option '${long ? `--${name}` : arg}'`)
    let value = long ? long[2] : arg.length > 2 ? arg.slice(2) : undefined
    if (flag.value === undefined) {
      if (value !== undefined) throw usage(`option '${arg}' takes no value`)
      value = ''
    } else if (value === undefined) {
      value = args[++i]
      if (value === undefined) throw usage(`option '${arg}' needs a value: <${flag.value}>`)
    }
    typed[name] = [...(flag.many ? (typed[name] ?? []) : []), value]
  }
  return { typed, rest: args.slice(i) }
}

function usage(text: string): CliError {
  return new CliError(exitCodes.usage, `run: ${text}. Run \`vmspool run --help\` for its options and examples.`)
}

/** A first argument without white space is the program of one command; else each argument is a whole command. */
export function commandsOf(rest: readonly string[]): string[][] {
  if (rest.length === 0) throw usage('there is no command to run')
  if (!hasBlank(rest[0]!)) {
    if (rest[0] === '') throw usage('the command is empty')
    return [[...rest]]
  }
  return rest.map((line) => {
    const split = splitWords(line)
    if ('fault' in split) throw usage(`the command ${JSON.stringify(line)} cannot be read: ${split.fault}`)
    if (!split.words[0]) throw usage(`the command ${JSON.stringify(line)} is empty`)
    return split.words
  })
}

interface Request {
  place: RunPlace
  options: RunOptions
  output: 'table' | 'json' | 'name'
}

/**
 * @param args what was typed after `run`
 * @returns the exit code; undefined when it is help that is asked for
 */
export async function runNow(args: readonly string[]): Promise<number | undefined> {
  const read = readArguments(args)
  if (read === 'help') return undefined
  const commands = commandsOf(read.rest)
  const request = await requestOf(read.typed)
  if (commands.length === 1) return printAll(request, [await become(request, commands[0]!)])
  const { name } = request.options
  const started: (StartedRun | { error: unknown })[] = []
  for (const [i, argv] of commands.entries()) {
    const options = { ...request.options, ...(name === undefined ? {} : { name: `${name}-${i + 1}` }) }
    // One that cannot be started is no reason not to try the others.
    started.push(await startRun(request.place, argv, options).catch((error) => ({ error })))
  }
  return printAll(request, started)
}

/** One command: this process becomes the shim's starter, which prints the same as printAll(). Comes back when that cannot be. */
async function become(r: Request, argv: string[]): Promise<StartedRun> {
  const prepared = await withSpool(r.place, () => prepareRun(r.place, argv, r.options))
  const [before, after] = said(r.place.layout, r.output, prepared.job.id, '\0').split('\0')
  const say = { before: before!, after: after ?? '', json: r.output === 'json', words: commandTitle(argv) }
  try {
    becomeShim(prepared.spec, say)
  } catch {
    process.removeAllListeners('warning') // that execve is experimental
    return startPrepared(r.place, argv, prepared)
  }
}

function printAll(r: Request, all: readonly (StartedRun | { error: unknown })[]): number {
  guardStdout()
  return printStarted(
    all.map((run) => ({ layout: r.place.layout, run })),
    r.output,
  )
}

/** Prints what was started, and says of the others why not. Returns the exit code. */
export function printStarted(
  all: readonly { layout: Layout; run: StartedRun | { error: unknown } }[],
  output: Request['output'],
): number {
  let exitCode: number = exitCodes.ok
  const onRecord: JobStatus[] = []
  for (const { layout, run } of all) {
    if ('status' in run) onRecord.push(run.status)
    if ('error' in run) {
      const e = explain(run.error)
      process.stderr.write(`vmspool: ${e.message}\n`)
      exitCode = all.length === 1 ? e.exitCode : exitCodes.jobFailed
    } else if (run.failed !== undefined) {
      process.stderr.write(`vmspool: ${run.failed}\n`)
      exitCode = exitCodes.jobFailed
    } else if (output !== 'json') process.stdout.write(said(layout, output, run.status.id, String(run.status.pid)))
  }
  if (output === 'json') process.stdout.write(`${JSON.stringify(onRecord, null, 2)}\n`)
  return exitCode
}

/** What Ghost prints. */
function said(l: Layout, output: Request['output'], id: string, pid: string): string {
  if (output === 'name') return `${id}\n`
  return `Started background process:\n  Task ID: ${id}\n  PID: ${pid}\n  Log file: ${l.outputJobs}/${id}/log\n`
}

async function requestOf(typed: Typed): Promise<Request> {
  const one = (name: string): string | undefined => typed[name]?.[0]
  const output = one('output') ?? 'table'
  if (output !== 'table' && output !== 'json' && output !== 'name')
    throw usage(`option '-o, --output' cannot be ${JSON.stringify(output)}; it is table, json or name`)
  const options: RunOptions = {}
  const cwd = one('cwd')
  if (cwd !== undefined) options.cwd = resolve(cwd)
  if (typed.env) options.env = variables(typed.env)
  if (typed['no-fsync']) options.fsync = false
  const expect = one('expect')
  if (expect !== undefined) options.expected = exitCodesOf(expect)
  const stdin = one('stdin')
  if (stdin !== undefined) options.stdin = resolve(stdin)
  // What is seldom given loads what it needs.
  if (Object.keys(typed).some((name) => rare.has(name))) {
    const { rareOptions } = await import('./run-options.ts')
    Object.assign(options, await rareOptions(typed))
  }
  const spool: { instance?: string; root?: string; config?: string } = {}
  for (const key of ['instance', 'root', 'config'] as const) {
    const value = one(key)
    if (value !== undefined) spool[key] = value
  }
  return { place: await runPlace(spool), options, output }
}

/** Those that run-options.ts reads. */
const rare = new Set(
  'name timeout grace kill-signal env-file nice ionice memory cpu cpu-time open-files processes'.split(' '),
)

/** `NAME=value`, or NAME for a variable of ours: so that a secret need not be typed. */
export function variables(given: readonly string[]): Record<string, string> {
  const env: Record<string, string> = {}
  for (const text of given) {
    const at = text.indexOf('=')
    const name = at === -1 ? text : text.slice(0, at)
    const value = at === -1 ? process.env[name] : text.slice(at + 1)
    if (name === '')
      throw usage(
        `option '-e, --env' is ${JSON.stringify(text)}; it must be NAME=value, or the NAME of a variable that is set`,
      )
    if (value === undefined) throw usage(`option '-e, --env' names ${name}, which is not set here; write ${name}=value`)
    env[name] = value
  }
  return env
}

function exitCodesOf(text: string): number[] {
  const codes = text.split(',').map((c) => (/^\s*\d{1,3}\s*$/.test(c) ? Number(c) : 256))
  if (codes.some((c) => c > 255))
    throw usage(`option '--expect' is ${JSON.stringify(text)}; it must be exit codes from 0 to 255, such as 0 or 0,1`)
  return codes
}
