/** Becoming whoever dropped the job. */
import { JobError, type JobContext } from './types.ts'

/** What tells a process that it runs under systemd; our children do not, and would speak to our manager for us. */
export const notForChildren = {
  NOTIFY_SOCKET: undefined,
  NOTIFY_FD: undefined,
  WATCHDOG_PID: undefined,
  WATCHDOG_USEC: undefined,
  LISTEN_FDS: undefined,
  LISTEN_PID: undefined,
  JOURNAL_STREAM: undefined,
  JOURNAL_FD: undefined,
  CREDENTIALS_DIRECTORY: undefined,
  RUNTIME_DIRECTORY: undefined,
  NODE_COMPILE_CACHE: undefined, // set by our launcher, for us
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
export async function asSubmitter(drop: JobContext['drop']): Promise<RunAs> {
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
