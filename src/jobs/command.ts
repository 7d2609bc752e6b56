/** Kind `command`: runs a program in its own process group. Its answer is how it ended; it makes no disk. */
import type { CommandManifest } from '../manifest/index.ts'
import { runGroup, SpawnError } from '../process/index.ts'
import { abortedError, abortReason, type JobContext, JobError, type JobHandler, type JobOutcome } from './types.ts'

/** What tells a process that it runs under systemd; our children do not, and would speak to our manager for us. */
const NOT_FOR_CHILDREN = {
  NOTIFY_SOCKET: undefined,
  NOTIFY_FD: undefined,
  WATCHDOG_PID: undefined,
  WATCHDOG_USEC: undefined,
  LISTEN_FDS: undefined,
  LISTEN_PID: undefined,
  JOURNAL_STREAM: undefined,
  NODE_COMPILE_CACHE: undefined, // set by our launcher, for us
}

/** The whole of a program's last words goes into the log; this much of them also into the error text. */
const TAIL_BYTES = 2048

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

/** How a program is started as whoever dropped the job, and what it is told of him. */
interface RunAs {
  prefix: string[]
  env: Record<string, undefined>
  cwd?: string
}

/**
 * A job may do only what its submitter may do. An agent that is root becomes him (setpriv(1): user, groups, no way back); any
 * other agent runs only its own user's programs.
 */
async function asSubmitter(drop: JobContext['drop']): Promise<RunAs> {
  const us = process.geteuid?.() ?? 0
  if (drop.uid === us) return { prefix: [], env: {} }
  if (us !== 0) {
    throw new JobError(
      `The job was dropped by uid ${drop.uid}, but the agent runs as uid ${us} and cannot run programs as somebody else.`,
      {
        code: 'other-submitter',
        transient: false,
        hint: 'Drop it as the user of the agent, or run the agent as root: it then runs each program as its submitter.',
      },
    )
  }
  const { submitterOf } = await import('../images/submitter.ts')
  const who = await submitterOf(drop.uid, drop.gid)
  const groups = [...new Set([who.gid, ...who.groups])].join(',')
  return {
    prefix: [
      'setpriv',
      `--reuid=${who.uid}`,
      `--regid=${who.gid}`,
      `--groups=${groups}`,
      '--inh-caps=-all',
      '--no-new-privs',
      '--',
    ],
    env: { HOME: undefined, USER: undefined, LOGNAME: undefined, MAIL: undefined },
    cwd: '/',
  }
}

async function run(m: CommandManifest, c: JobContext<CommandManifest>): Promise<JobOutcome> {
  const argv = argvOf(m)
  const as = await asSubmitter(c.drop)
  const expected = m.command.expected_exit_codes ?? [0]
  let tail = Buffer.alloc(0)
  const keep = (chunk: Buffer): void => {
    tail = Buffer.concat([tail, chunk.subarray(-TAIL_BYTES)]).subarray(-TAIL_BYTES)
  }
  c.progress({ phase: 'run' })
  const started = performance.now()
  let result: Awaited<ReturnType<typeof runGroup>>
  try {
    result = await runGroup([...as.prefix, ...argv], {
      cwd: m.command.cwd ?? as.cwd ?? c.attemptDir,
      env: {
        ...NOT_FOR_CHILDREN,
        ...as.env,
        VMSPOOL_JOB: c.id,
        VMSPOOL_EPOCH: String(c.epoch),
        VMSPOOL_NAME: c.answer,
        ...m.command.env,
      },
      signal: c.signal,
      killGraceMs: 5000,
      onSpawn: c.spawned,
      onStdout: (chunk) => c.log('stdout', chunk),
      onStderr: (chunk) => {
        keep(chunk)
        return c.log('stderr', chunk)
      },
    })
  } catch (e) {
    if (!(e instanceof SpawnError)) throw e
    throw new JobError(e.message, {
      code: 'spawn-failed',
      // Out of processes, memory or descriptors passes; a program that is not there stays away.
      transient: ['EAGAIN', 'ENOMEM', 'EMFILE', 'ENFILE', 'ETXTBSY', 'EIO', 'ESTALE'].includes(e.code),
      hint: 'Look at command.argv and command.cwd; programs are looked up in the PATH of the agent.',
      cause: e,
    })
  }
  if (abortReason(c.signal)) throw abortedError(c.signal, 'run')
  const ended = result.signal === null ? `exit code ${result.exit_code}` : `signal ${result.signal}`
  const detail = { argv, duration_ms: Math.round(performance.now() - started) }
  if (result.exit_code !== null && expected.includes(result.exit_code)) {
    return {
      summary: `${argv[0]} ended with ${ended}.`,
      exit_code: result.exit_code,
      phases: [{ name: 'run', duration_ms: detail.duration_ms }],
      argv,
    }
  }
  const words = tail.toString('utf8').trim()
  throw new JobError(
    `${argv[0]} ended with ${ended}; expected was ${expected.length === 1 ? `exit code ${expected[0]}` : `one of the exit codes ${expected.join(', ')}`}.${words === '' ? '' : `\nIts last words:\n${words}`}`,
    {
      code: result.signal === null ? 'exit-code' : 'killed',
      // A program's own failure is tried again when its manifest speaks of `retry`; sysexits' EX_TEMPFAIL and a foreign kill always.
      transient: m.retry !== undefined || result.exit_code === 75 || result.signal !== null,
      ...(result.exit_code === null ? {} : { exit_code: result.exit_code }),
      ...(result.signal === null ? {} : { signal: result.signal }),
      hint: `Read the whole output with: vmspool logs ${c.id}`,
      phase: 'run',
      detail,
    },
  )
}

export const command: JobHandler<CommandManifest> = { kind: 'command', weight: () => 1, run }
