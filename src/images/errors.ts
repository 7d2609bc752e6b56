/**
 * A failure of an image operation or a conversion, with a name. `transient` says whether the same thing may work later;
 * `hint` says what the reader should do. Message and hint are full sentences.
 */
export class ImageError extends Error {
  readonly code: string
  readonly transient: boolean
  readonly hint: string | undefined
  readonly phase: string | undefined
  readonly exit_code: number | undefined
  readonly signal: string | undefined
  constructor(
    message: string,
    o: {
      code: string
      transient?: boolean
      hint?: string
      phase?: string
      exit_code?: number
      signal?: string
      cause?: unknown
    },
  ) {
    super(message, o.cause === undefined ? undefined : { cause: o.cause })
    this.name = 'ImageError'
    this.code = o.code
    this.transient = o.transient ?? false
    this.hint = o.hint
    this.phase = o.phase
    this.exit_code = o.exit_code
    this.signal = o.signal
  }
}
