/** An error of the spool itself, with the exit code a command should end with (DESIGN section 10). */
export class SpoolError extends Error {
  readonly exitCode: number
  constructor(message: string, exitCode: number, options?: ErrorOptions) {
    super(message, options)
    this.name = 'SpoolError'
    this.exitCode = exitCode
  }
}

/** The errno name of a file system error, or '' for anything else. */
export function errno(error: unknown): string {
  return typeof error === 'object' && error !== null && 'code' in error ? String(error.code) : ''
}
