/** An error as the sentence that a person reads. The client's errors are sentences already; those of system calls are not. */
export function explained(error: unknown): string {
  if (!(error instanceof Error)) return `Something went wrong: ${String(error)}`
  const e = error as NodeJS.ErrnoException & { exitCode?: unknown; hint?: unknown }
  if (typeof e.exitCode === 'number') return typeof e.hint === 'string' ? `${e.message} ${e.hint}` : e.message
  if (e.syscall === undefined) return e.message
  const what = e.path ?? 'A system call'
  if (e.code === 'EACCES' || e.code === 'EPERM')
    return `${what} may not be used by this user (${e.code}). Ask for membership of the group that owns it.`
  if (e.code === 'ENOENT') return `${what} does not exist (any more).`
  return `${what}: ${e.message}`
}
