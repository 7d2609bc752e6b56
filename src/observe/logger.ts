/**
 * Log lines: one JSON object each on stdout, with an event name. Under systemd (JOURNAL_STREAM is set) each line begins with the
 * syslog level as `<N>`, which sd-daemon(3) makes journald understand.
 */
import { pino } from 'pino'

export type LogLevel = 'debug' | 'info' | 'warn' | 'error'
export type LogFields = Record<string, unknown>

export interface Logger {
  debug(event: string, fields?: LogFields): void
  info(event: string, fields?: LogFields): void
  warn(event: string, fields?: LogFields): void
  error(event: string, fields?: LogFields): void
  setLevel(level: LogLevel): void
  /** writes out what is still in memory */
  flush(): void
}

/** syslog(3) severities by pino's level numbers */
const SYSLOG: Record<number, string> = { 20: '<7>', 30: '<6>', 40: '<4>', 50: '<3>' }

/** Lines that a stalled reader of our stdout may leave in memory, in bytes; more are dropped. */
const MAX_BACKLOG_BYTES = 4 * 1024 * 1024

export interface LoggerOptions {
  level?: LogLevel
  /** fields of every line */
  base?: LogFields
  /** file descriptor, default stdout */
  fd?: number
  journal?: boolean
}

export function createLogger(o: LoggerOptions = {}): Logger {
  const out = pino.destination({ dest: o.fd ?? 1, sync: false, maxLength: MAX_BACKLOG_BYTES } as never)
  // A reader that went away (EPIPE) is no reason to stop working.
  out.on('error', () => {})
  const journal = o.journal ?? process.env.JOURNAL_STREAM !== undefined
  const stream = {
    [Symbol.for('pino.metadata')]: true,
    lastLevel: 30,
    write(line: string): void {
      out.write(journal ? (SYSLOG[this.lastLevel] ?? '<6>') + line : line)
    },
  }
  const log = pino(
    {
      level: o.level ?? 'info',
      base: o.base ?? {},
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { error: describeError },
    },
    stream as never,
  )
  const at =
    (level: LogLevel) =>
    (event: string, fields?: LogFields): void =>
      log[level]({ event, ...fields })
  return {
    debug: at('debug'),
    info: at('info'),
    warn: at('warn'),
    error: at('error'),
    setLevel(level) {
      log.level = level
    },
    flush() {
      try {
        out.flushSync()
      } catch {
        // the reader is gone, or the descriptor was never opened
      }
    },
  }
}

/** An error as a plain object: message, code, and the stack only when nobody foresaw it. */
function describeError(e: unknown): unknown {
  if (!(e instanceof Error)) return e
  const { code, exitCode } = e as { code?: unknown; exitCode?: unknown }
  const foreseen = code !== undefined || exitCode !== undefined
  return { message: e.message, ...(code === undefined ? {} : { code }), ...(foreseen ? {} : { stack: e.stack }) }
}
