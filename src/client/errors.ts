import type { Diagnostic } from '../text/diagnostic.ts'

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

/** A manifest with errors: what `vmspool check` prints. */
export class ManifestError extends ClientError {
  readonly file: string
  readonly diagnostics: readonly Diagnostic[]
  constructor(file: string, diagnostics: readonly Diagnostic[]) {
    const errors = diagnostics.filter((d) => d.severity === 'error')
    const first = errors[0] ?? diagnostics[0]
    const more = errors.length > 1 ? ` (and ${errors.length - 1} more)` : ''
    super(
      65,
      `${file} is not a valid manifest: ${first === undefined ? 'it cannot be read.' : sentenceOf(first)}${more}`,
    )
    this.name = 'ManifestError'
    this.file = file
    this.diagnostics = diagnostics
  }
}

/** A diagnostic as one sentence that says where. */
export function sentenceOf(d: Diagnostic): string {
  return d.path === '' || d.message.startsWith(d.path) ? d.message : `${d.path}: ${d.message}`
}
