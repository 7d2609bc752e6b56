import { errno } from '../process/errno.ts'

/** Exit codes (sysexits.h where it has one) and the one place that turns an error into text and a code. */
export const exitCodes = {
  ok: 0,
  jobFailed: 1,
  usage: 2,
  badManifest: 65,
  noAgent: 69,
  software: 70,
  cannotCreate: 73,
  io: 74,
  tryAgain: 75,
  permission: 77,
  configuration: 78,
  timedOut: 124,
  interrupted: 130,
} as const

/** An error whose text is meant for whoever typed the command: a full sentence, and the exit code that goes with it. */
export class CliError extends Error {
  readonly exitCode: number
  constructor(exitCode: number, message: string) {
    super(message)
    this.name = 'CliError'
    this.exitCode = exitCode
  }
}

/** Prints what went wrong as sentences on stderr and returns the exit code. Never a stack trace, unless VMSPOOL_DEBUG asks for it. */
export function reportError(error: unknown): number {
  if (process.env.VMSPOOL_DEBUG) console.error(error)
  const { message, exitCode } = explain(error)
  process.stderr.write(`vmspool: ${message}\n`)
  return exitCode
}

export function explain(error: unknown): { message: string; exitCode: number } {
  if (!(error instanceof Error))
    return { message: `Something went wrong: ${String(error)}`, exitCode: exitCodes.software }
  const coded = error as Error & { exitCode?: unknown; code?: unknown; hint?: unknown; diagnostics?: unknown }
  if (typeof coded.exitCode === 'number' && coded.exitCode > 0) {
    const hint = typeof coded.hint === 'string' && !error.message.includes(coded.hint) ? ` ${coded.hint}` : ''
    return { message: `${error.message}${hint}`, exitCode: coded.exitCode }
  }
  if (typeof coded.code === 'string' && 'syscall' in coded) return explainErrno(coded as NodeJS.ErrnoException)
  // A JobError of a conversion that ran directly: the job failed, the program did not.
  if (typeof coded.code === 'string' && 'transient' in coded) {
    const hint = typeof coded.hint === 'string' && !error.message.includes(coded.hint) ? ` ${coded.hint}` : ''
    return { message: `${error.message}${hint}`, exitCode: exitCodes.jobFailed }
  }
  return {
    message: `${error.message} (This is an error in vmspool itself: run it again with VMSPOOL_DEBUG=1 and report what it prints.)`,
    exitCode: exitCodes.software,
  }
}

function explainErrno(error: NodeJS.ErrnoException): { message: string; exitCode: number } {
  const what = error.path === undefined ? 'A system call' : error.path
  switch (errno(error)) {
    case 'ENOENT':
      return { message: `${what} does not exist. Check the name and the folder.`, exitCode: exitCodes.io }
    case 'EACCES':
    case 'EPERM':
      return {
        message: `${what} may not be used by this user (${errno(error)} at ${error.syscall}). Check its owner and mode, or run as a member of its group.`,
        exitCode: exitCodes.permission,
      }
    case 'EISDIR':
      return { message: `${what} is a folder where a file was expected.`, exitCode: exitCodes.io }
    case 'ENOTDIR':
      return { message: `${what} is used as a folder but is none.`, exitCode: exitCodes.io }
    case 'ENOSPC':
    case 'EDQUOT':
      return {
        message: `There is no space left to write ${what} (${errno(error)}). Free some space there, then try again.`,
        exitCode: exitCodes.cannotCreate,
      }
    case 'ESTALE':
      return {
        message: `${what} was removed or replaced by another host of its network filesystem (ESTALE). Try again.`,
        exitCode: exitCodes.io,
      }
    case 'EROFS':
      return { message: `${what} lies on a read-only filesystem.`, exitCode: exitCodes.cannotCreate }
    default:
      return { message: `${what}: ${error.message}`, exitCode: exitCodes.io }
  }
}
