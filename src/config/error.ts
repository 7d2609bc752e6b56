import type { Diagnostic } from '../text/diagnostic.ts'

export interface ConfigDiagnostic extends Diagnostic {
  /** The file, or "environment", or "command line". */
  file: string
}

/** The configuration cannot be used. Carries every error, not the first. */
export class ConfigError extends Error {
  readonly exitCode = 78
  readonly diagnostics: readonly ConfigDiagnostic[]
  constructor(diagnostics: readonly ConfigDiagnostic[]) {
    const errors = diagnostics.filter((d) => d.severity === 'error')
    super(
      `The configuration has ${errors.length === 1 ? 'an error' : `${errors.length} errors`}.\n${errors
        .map((d) => `  ${d.file}${d.line === undefined ? '' : `:${d.line}:${d.column}`}: ${d.message}`)
        .join('\n')}`,
    )
    this.name = 'ConfigError'
    this.diagnostics = diagnostics
  }
}
