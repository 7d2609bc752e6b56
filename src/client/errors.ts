/**
 * An error of the client with the exit code a program should end with (the ones of the command line):
 * 65 bad manifest, 69 no agent, 73 no such spool, 74 I/O, 75 try again, 77 permission, 124 wait timed out, 130 interrupted.
 */
export class ClientError extends Error {
  readonly exitCode: number
  constructor(exitCode: number, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'ClientError'
    this.exitCode = exitCode
  }
}
