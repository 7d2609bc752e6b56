/**
 * Log lines: one JSON object each on stdout, with an event name. Under systemd (JOURNAL_STREAM is set) each line begins with the
 * syslog level as `<N>`, which sd-daemon(3) makes journald understand. Where our launcher opened a socket to journald (JOURNAL_FD), the
 * lines go there instead, with fields to look for: `journalctl VMSPOOL_JOB=01J…`.
 */
import { writeSync } from 'node:fs'
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
  /** a datagram socket connected to journald; default: the descriptor in JOURNAL_FD, for lines on stdout */
  journalFd?: number | undefined
}

/** Our fields as those of the journal (systemd.journal-fields(7): upper case, no leading underscore). */
const JOURNAL_FIELDS = { event: 'VMSPOOL_EVENT', job: 'VMSPOOL_JOB', name: 'VMSPOOL_NAME', kind: 'VMSPOOL_KIND' }

/** Sends a line in journald's own protocol. @returns false when it was not taken: too long, or journald is busy or away */
function toJournal(fd: number, syslog: string, identifier: string, line: string, fields: LogFields): boolean {
  let text = `PRIORITY=${syslog[1]}\nSYSLOG_IDENTIFIER=${identifier}\n`
  for (const [ours, theirs] of Object.entries(JOURNAL_FIELDS)) {
    const value = fields[ours]
    if (typeof value === 'string') text += `${theirs}=${value.replace(/\n/g, ' ')}\n`
  }
  try {
    writeSync(fd, `${text}MESSAGE=${line.trimEnd()}\n`)
    return true
  } catch {
    return false
  }
}

export function createLogger(o: LoggerOptions = {}): Logger {
  const out = pino.destination({ dest: o.fd ?? 1, sync: false, maxLength: MAX_BACKLOG_BYTES } as never)
  // A reader that went away (EPIPE) is no reason to stop working.
  out.on('error', () => {})
  const journal = o.journal ?? process.env.JOURNAL_STREAM !== undefined
  const given = o.journalFd ?? (o.fd === undefined && journal ? Number(process.env.JOURNAL_FD) : Number.NaN)
  const native = Number.isInteger(given) && given > 2 ? given : undefined
  const identifier = ['vmspool', o.base?.instance].filter((x) => typeof x === 'string').join('-')
  const stream = {
    [Symbol.for('pino.metadata')]: true,
    lastLevel: 30,
    lastObj: {} as LogFields,
    write(line: string): void {
      const syslog = SYSLOG[this.lastLevel] ?? '<6>'
      if (native !== undefined && toJournal(native, syslog, identifier, line, this.lastObj)) return
      out.write(journal ? syslog + line : line)
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
