/** An error of the history, with the exit code a command should end with (DESIGN section 10). */
export class HistoryError extends Error {
  readonly exitCode: number
  constructor(message: string, exitCode: number, options?: ErrorOptions) {
    super(message, options)
    this.name = 'HistoryError'
    this.exitCode = exitCode
  }
}

/** SQLite's primary result code behind an error of node:sqlite (sqlite.org/rescode.html); undefined for any other error. */
export function resultCode(error: unknown): number | undefined {
  const code = (error as { errcode?: unknown } | null)?.errcode
  return typeof code === 'number' ? code & 0xff : undefined
}

/** SQLITE_CORRUPT, SQLITE_NOTADB: the file is not, or no more, a database. */
export function isDamage(error: unknown): boolean {
  const code = resultCode(error)
  return code === 11 || code === 26
}

export const SQLITE_BUSY = 5
