/** A job's log, `<output>/jobs/<ulid>/log`: appended to by each attempt, and by the shim of a command; rotated and bounded. */
import type { Config } from '../config/index.ts'
import { logFilesOf } from '../process/log-files.ts'
import { openLogWriter } from '../process/log-writer.ts'

export interface JobLog {
  /** a promise when the disk is behind: whoever pumps a lot should wait for it */
  write(stream: 'stdout' | 'stderr' | 'agent', text: string | Buffer): void | Promise<void>
  close(): Promise<void>
}

/** @param onError told once; a log that cannot be written fails no job */
export function openJobLog(path: string, limits: Config['logs'], onError: (e: unknown) => void): JobLog {
  const writer = openLogWriter({
    files: logFilesOf(path),
    limits: { max_bytes: limits.max_bytes, max_age_ms: limits.max_age, total_bytes: limits.total_bytes },
    mode: 0o644, // as the status beside it: whoever may see the job may read it
    onError,
  })
  return {
    write: (stream, text) => writer.write(stream, typeof text === 'string' ? Buffer.from(text) : text),
    close: () => writer.close(),
  }
}
