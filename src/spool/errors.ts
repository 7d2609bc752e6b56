/** An error of the spool itself, with the exit code a command should end with (DESIGN section 10). */
export class SpoolError extends Error {
  readonly exitCode: number
  constructor(message: string, exitCode: number, options?: ErrorOptions) {
    super(message, options)
    this.name = 'SpoolError'
    this.exitCode = exitCode
  }
}

export { errno } from '../process/errno.ts'
