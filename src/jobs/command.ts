/**
 * Kind `command`: runs a program under a shim of its own (process/shim.ts), which needs no agent: when the agent dies or is
 * restarted the program goes on, and the next attempt at the job takes it over as it is.
 */
import { dirname, join } from 'node:path'
import type { CommandManifest } from '../manifest/index.ts'
import {
  fenceShim,
  type LimitedBy,
  type Limits,
  limitedBy,
  scopeManager,
  type ShimExit,
  type ShimProcess,
  shimState,
  SpawnError,
  startFailure,
  startShim,
  stopShim,
  waitShim,
} from '../process/index.ts'
import { markTry, tryOf } from './command-attempt.ts'
import { disposeEnvironment, prepareEnvironment } from './command-env.ts'
import { asSubmitter, notForChildren } from './command-submitter.ts'
import { withStdin } from './command-file.ts'
import { lastWords } from './command-words.ts'
import { abortedError, abortReason, type JobContext, JobError, type JobHandler, type JobOutcome } from './types.ts'

type Context = JobContext<CommandManifest> & Required<Pick<JobContext, 'shim'>>

/** Where the shim of an attempt keeps its records. */
export const SHIM_FOLDER = 'run'

/** Who stopped a program that another agent is to run again: no user's name has a colon. */
const GIVE_BACK = 'vmspool:give-back'

/** Errors behind which the next attempt may find another world: out of processes, memory or descriptors. */
const PASSING = new Set(['EAGAIN', 'ENOMEM', 'EMFILE', 'ENFILE', 'ETXTBSY', 'EIO', 'ESTALE'])

/** A program that this job has already: of an attempt that was cut off, not of one that failed and is to be repeated. */
interface Carried {
  dir: string
  of: string
}

function argvOf(m: CommandManifest): string[] {
  const c = m.command as { argv?: readonly string[]; shell?: string }
  if (c.argv && c.argv.length > 0) return [...c.argv]
  if (c.shell !== undefined) return ['/bin/sh', '-c', c.shell]
  throw new JobError('The command has neither "argv" nor "shell", so there is nothing to run.', {
    code: 'no-command',
    transient: false,
    hint: 'Give command.argv as a list of strings, for example ["rsync", "-a", "/from", "/to"].',
  })
}

async function run(m: CommandManifest, given: JobContext<CommandManifest>): Promise<JobOutcome> {
  if (!given.shim)
    throw new Error('A command needs an agent (or vmspool run): its log and its tries are not known here.')
  const c: Context = { ...given, shim: given.shim }
  const carried = await fromEarlier(m, c)
  const dir = carried?.dir ?? join(c.attemptDir, SHIM_FOLDER)
  let exit: ShimExit
  let warnings: string[] = []
  try {
    if (!carried) {
      const begun = await start(m, c, dir)
      if ('failed' in begun) throw notStarted(m, begun.failed)
      warnings = begun.warnings
    }
    exit = await toItsEnd(m, c, dir)
  } finally {
    if (!goesOn(c)) await disposeEnvironment(dirname(dir))
  }
  if (abortReason(c.signal)) throw abortedError(c.signal, 'run')
  const outcome = await judge(m, c, exit)
  return warnings.length === 0 ? outcome : { ...outcome, warnings: warnings.map((message) => ({ message })) }
}

/**
 * What an earlier attempt left: a program that still runs, or one that ended while no agent was there to see it. What belongs to
 * an attempt that failed was judged then. A program whose shim was killed is ended: nobody could say how it ends.
 */
async function fromEarlier(m: CommandManifest, c: Context): Promise<Carried | undefined> {
  for (const earlier of [...c.earlierAttempts].reverse()) {
    if (earlier.kept) continue
    const dir = join(earlier.dir, SHIM_FOLDER)
    if (tryOf(dir) !== c.shim.failures) continue
    let s = shimState(dir)
    // Its agent may have died while the shim was only beginning.
    if (s.state === 'lost' && !s.process && !fenceShim(dir)) s = shimState(dir)
    if (s.state === 'orphaned') {
      c.log('agent', `the shim of process ${s.process.pid} was killed; the process is ended, and the command run again`)
      await stopShim(dir, { by: GIVE_BACK, graceMs: graceOf(m, c) })
      await disposeEnvironment(earlier.dir)
    } else if (s.state === 'elsewhere') {
      c.log(
        'agent',
        `${earlier.owner} may still run it as process ${s.process.pid} of ${s.process.host}; nobody here can tell`,
      )
    } else if (s.state === 'running' || (s.state === 'ended' && s.exit.stopped?.by !== GIVE_BACK)) {
      const how = s.state === 'running' ? `process ${s.process.pid}, which runs` : 'a process that ended meanwhile'
      c.log('agent', `takes over ${how}, from ${earlier.owner}`)
      if (s.process) tell(c, s.process)
      return { dir, of: earlier.owner }
    }
  }
  return undefined
}

async function start(m: CommandManifest, c: Context, dir: string): Promise<LimitedBy | { failed: ShimExit }> {
  const argv = argvOf(m)
  const as = await asSubmitter(c.drop)
  const limits = await limitsOf(m, c)
  const us = process.geteuid?.() ?? 0
  const prepared = await prepareEnvironment(m, { drop: c.drop, attemptDir: c.attemptDir, us })
  const { logs } = c.config
  markTry(dir, c.shim.failures)
  const timeout = m.timeout_ms ?? c.config.timeouts.job
  const run = (stdin: string | number | undefined) =>
    startShim({
      dir,
      argv: [...limits.outer, ...as.prefix, ...limits.inner, ...argv],
      cwd: m.command.cwd ?? as.cwd ?? c.attemptDir,
      env: {
        ...notForChildren,
        ...as.env,
        VMSPOOL_JOB: c.id,
        VMSPOOL_EPOCH: String(c.epoch),
        VMSPOOL_NAME: c.answer,
        ...prepared.env,
      },
      log: {
        path: c.shim.logFile,
        mode: 0o644, // as the agent makes it
        max_bytes: logs.max_bytes,
        max_age_ms: logs.max_age,
        total_bytes: logs.total_bytes,
      },
      ...(timeout > 0 ? { timeout_ms: timeout } : {}),
      ...(m.command.kill_signal === undefined ? {} : { kill_signal: m.command.kill_signal }),
      ...(stdin === undefined ? {} : { stdin }),
      kill_grace_ms: graceOf(m, c),
    })
  try {
    const started = await withStdin(m, { drop: c.drop, dir }, run)
    if ('failed' in started) return started
    tell(c, started.process)
    return limits
  } catch (e) {
    if (!(e instanceof SpawnError)) throw e
    throw new JobError(e.message, { code: 'spawn-failed', transient: PASSING.has(e.code), cause: e })
  }
}

/** What would be more than its submitter may do himself is refused, not tried. */
async function limitsOf(m: CommandManifest, c: Context): Promise<LimitedBy> {
  const l = m.command.limits as Limits | undefined
  if (!l) return { outer: [], inner: [], warnings: [] }
  if (c.drop.uid !== 0 && ((l.nice ?? 0) < 0 || l.ionice === 'realtime')) {
    const what = (l.nice ?? 0) < 0 ? `limits.nice ${l.nice}` : 'limits.ionice "realtime"'
    throw new JobError(`${what} is for root alone, and the job was dropped by uid ${c.drop.uid}.`, {
      code: 'not-allowed',
      transient: false,
      hint: 'Take a nice of 0 to 19, and "best-effort" or "idle".',
    })
  }
  const imposed = limitedBy(l, {
    manager: await scopeManager(),
    unit: `vmspool-${c.id}-${c.epoch}`,
    description: `vmspool job ${c.id} (${c.answer})`,
  })
  for (const w of imposed.warnings) c.log('agent', w)
  return imposed
}

function tell(c: Context, p: ShimProcess): void {
  c.progress({ phase: 'run', process: { pid: p.pid, host: p.host } })
}

function graceOf(m: CommandManifest, c: Context): number {
  return m.command.kill_grace_ms ?? c.config.timeouts.kill_grace
}

/** Whether the program stays, for the next agent. */
function goesOn(c: Context): boolean {
  const why = abortReason(c.signal)
  return why?.kind === 'fenced' || (why?.kind === 'drain' && why.leave === true)
}

/** Waits for its end. When the job is to stop, the program is; when only the agent is to go, the program stays for the next one. */
async function toItsEnd(m: CommandManifest, c: Context, dir: string): Promise<ShimExit> {
  let s = await waitShim(dir, { signal: c.signal })
  const why = abortReason(c.signal)
  if (s.state === 'running') {
    if (goesOn(c)) throw abortedError(c.signal, 'run')
    s = await stopShim(dir, {
      by: why?.kind === 'cancel' ? (why.by ?? 'a request') : GIVE_BACK,
      graceMs: graceOf(m, c),
      ...(m.command.kill_signal === undefined ? {} : { signal: m.command.kill_signal }),
      ...(why?.force ? { force: true } : {}),
    })
  }
  if (s.state === 'orphaned') s = await stopShim(dir, { by: GIVE_BACK, graceMs: graceOf(m, c) })
  if (s.state === 'ended') return s.exit
  if (why) throw abortedError(c.signal, 'run')
  throw new JobError(
    `How "${argvOf(m)[0]}" ended is not known: ${s.state === 'lost' ? s.why : 'its shim was killed, and what it had started was ended'}.`,
    { code: 'lost', transient: true, hint: `Read the whole output with: vmspool logs ${c.id}`, phase: 'run' },
  )
}

function notStarted(m: CommandManifest, exit: ShimExit): JobError {
  const e = startFailure(exit)
  const what = argvOf(m)[0]
  const why =
    e?.step === 'cwd'
      ? `its working directory ${m.command.cwd ?? ''} cannot be entered (${e.message})`
      : e?.step === 'stdin'
        ? `its standard input ${m.command.stdin_file ?? ''} cannot be opened (${e.message})`
        : e?.code === 'ENOENT'
          ? 'there is no such program in PATH'
          : e?.code === 'EACCES'
            ? 'it may not be executed by this user'
            : (e?.message ?? 'for no known reason')
  return new JobError(`The program "${what}" could not be started: ${why}.`, {
    code: 'spawn-failed',
    transient: PASSING.has(e?.code ?? ''),
    hint: 'Look at command.argv and command.cwd; programs are looked up in the PATH of the agent.',
    phase: 'run',
  })
}

async function judge(m: CommandManifest, c: Context, exit: ShimExit): Promise<JobOutcome> {
  if (exit.spawn_error) throw notStarted(m, exit)
  const argv = argvOf(m)
  const expected = m.command.expected_exit_codes ?? [0]
  const ended = exit.signal === null ? `exit code ${exit.exit_code}` : `signal ${exit.signal}`
  const detail = {
    argv,
    duration_ms: exit.duration_ms,
    user_ms: exit.user_ms,
    system_ms: exit.system_ms,
    ...(exit.core ? { core: true } : {}),
  }
  const codes = {
    ...(exit.exit_code === null ? {} : { exit_code: exit.exit_code }),
    ...(exit.signal === null ? {} : { signal: exit.signal }),
  }
  const hint = `Read the whole output with: vmspool logs ${c.id}`
  if (exit.stopped) {
    throw new JobError(`The job was stopped by ${exit.stopped.by}; ${argv[0]} ended with ${ended}.`, {
      ...codes,
      code: 'stopped',
      transient: false,
      phase: 'run',
      detail,
    })
  }
  if (exit.timed_out) {
    throw new JobError(
      `${argv[0]} ran longer than its timeout of ${(m.timeout_ms ?? c.config.timeouts.job) / 1000} s and was stopped; it ended with ${ended}. Give it a larger "timeout", or none, and drop it again.`,
      { ...codes, code: 'timed-out', transient: false, hint, phase: 'run', detail },
    )
  }
  if (exit.exit_code !== null && expected.includes(exit.exit_code)) {
    return {
      summary: `${argv[0]} ended with ${ended}.`,
      exit_code: exit.exit_code,
      phases: [{ name: 'run', duration_ms: exit.duration_ms }],
      argv,
      user_ms: exit.user_ms,
      system_ms: exit.system_ms,
    }
  }
  const words = await lastWords(c.shim.logFile, exit.started_at)
  throw new JobError(
    `${argv[0]} ended with ${ended}; expected was ${expected.length === 1 ? `exit code ${expected[0]}` : `one of the exit codes ${expected.join(', ')}`}.${words === '' ? '' : `\nIts last words:\n${words}`}`,
    {
      ...codes,
      code: exit.signal === null ? 'exit-code' : 'killed',
      // A program's own failure is tried again when its manifest speaks of `retry`; sysexits' EX_TEMPFAIL and a foreign kill always.
      transient: m.retry !== undefined || exit.exit_code === 75 || exit.signal !== null,
      hint,
      phase: 'run',
      detail,
    },
  )
}

export const command: JobHandler<CommandManifest> = { kind: 'command', weight: () => 1, run }
