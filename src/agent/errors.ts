/** An agent that cannot start or go on; the exit codes are those of DESIGN section 10. */
export class AgentError extends Error {
  readonly exitCode: number
  constructor(message: string, exitCode: number, options?: { cause?: unknown }) {
    super(message, options)
    this.name = 'AgentError'
    this.exitCode = exitCode
  }
}
