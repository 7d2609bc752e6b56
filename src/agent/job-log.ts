/** A job's log, `<output>/jobs/<ulid>/log`: appended to by each attempt, bounded, written beside the work. */
import { type FileHandle, mkdir, open } from 'node:fs/promises'
import { dirname } from 'node:path'

export interface JobLog {
  /** a promise when the disk is behind: whoever pumps a lot should wait for it */
  write(stream: 'stdout' | 'stderr' | 'agent', text: string | Buffer): void | Promise<void>
  close(): Promise<void>
}

/** Of a flood the beginning and the end are kept. */
const HEAD_BYTES = 32 * 1024 * 1024
const TAIL_BYTES = 256 * 1024
const BEHIND_BYTES = 1024 * 1024

export function openJobLog(
  path: string,
  onError: (e: unknown) => void,
  limits = { head: HEAD_BYTES, tail: TAIL_BYTES },
): JobLog {
  let waiting: Buffer[] = []
  let waitingBytes = 0
  let written = 0
  let tail: Buffer[] = []
  let tailBytes = 0
  let leftOut = 0
  let file: FileHandle | undefined
  let broken = false
  let writing: Promise<void> | undefined
  let lastAgent = true // whether the file ends with a newline, as far as we know

  async function drain(): Promise<void> {
    while (waiting.length > 0) {
      const batch = Buffer.concat(waiting)
      waiting = []
      try {
        file ??= await openAppend(path)
        await file.write(batch)
      } catch (e) {
        // A log that cannot be written must not fail the job.
        if (!broken) onError(e)
        broken = true
      }
      waitingBytes -= batch.length
    }
  }
  function push(b: Buffer): void | Promise<void> {
    waiting.push(b)
    waitingBytes += b.length
    writing ??= drain().finally(() => {
      writing = undefined
    })
    return waitingBytes > BEHIND_BYTES ? writing : undefined
  }
  return {
    write(stream, text) {
      let b = typeof text === 'string' ? Buffer.from(text) : text
      if (stream === 'agent') {
        const line = b.toString('utf8').trimEnd()
        b = Buffer.from(`${lastAgent ? '' : '\n'}${new Date().toISOString()} vmspool: ${line}\n`)
        lastAgent = true
      } else {
        if (b.length === 0) return undefined
        lastAgent = b.at(-1) === 10
        if (written + b.length > limits.head) {
          tail.push(Buffer.from(b.subarray(-limits.tail)))
          tailBytes += Math.min(b.length, limits.tail)
          leftOut += b.length
          while (tail.length > 1 && tailBytes - (tail[0]?.length ?? 0) >= limits.tail)
            tailBytes -= tail.shift()?.length ?? 0
          return undefined
        }
        written += b.length
      }
      return push(b)
    },
    async close() {
      if (leftOut > 0) {
        const end = Buffer.concat(tail).subarray(-limits.tail)
        push(
          Buffer.from(
            `\n${new Date().toISOString()} vmspool: ${leftOut - end.length} bytes of output are left out here\n`,
          ),
        )
        push(end)
        tail = []
      }
      await writing
      await file?.close().catch(() => {})
      file = undefined
    },
  }
}

async function openAppend(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'a', 0o644)
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code !== 'ENOENT') throw e
    await mkdir(dirname(path), { recursive: true })
    return open(path, 'a', 0o644)
  }
}
