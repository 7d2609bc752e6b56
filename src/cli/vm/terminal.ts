/**
 * This terminal as that of a stream: every key goes there, everything from there is shown, and however it ends, the terminal is as it was.
 * (KILL cannot be caught: then `reset` helps.)
 */
import type { ByteStream } from '../../libvirt/index.ts'
import { onEnd } from '../../tui/terminal.ts'

export type Left =
  /** the escape key */
  | { why: 'key' }
  | { why: 'signal'; code: number }
  /** nobody reads our output any more */
  | { why: 'output' }
  /** the other side ended */
  | { why: 'end'; error?: Error }

/** So much may be typed or pasted at a guest that takes nothing; what is more is dropped, with a bell. */
const TYPED_MOST = 256 * 1024
/** Colours off, the cursor shown, pasted text unmarked: a guest that was left in the middle of a screen had changed them. */
const TIDY = '\u001b[0m\u001b[?25h\u001b[?2004l\r\n'

export async function attach(stream: ByteStream, o: { escape: number; input: boolean }): Promise<Left> {
  const { stdin, stdout } = process
  const { promise: left, resolve: leave } = Promise.withResolvers<Left>()
  const raw = (on: boolean): void => {
    try {
      stdin.setRawMode(on)
    } catch {
      // the terminal is gone
    }
  }
  const undo = [endings(o.input, leave)]
  if (o.input) {
    const again = (): void => {
      // stopped and continued from outside: the shell has set the terminal as it likes it
      raw(false)
      raw(true)
    }
    const typed = typing(stream, o.escape, leave)
    process.on('SIGCONT', again)
    raw(true)
    stdin.on('data', typed)
    stdin.resume()
    undo.push(() => {
      process.off('SIGCONT', again)
      stdin.off('data', typed)
      raw(false)
      stdin.pause()
      stdin.unref()
      stdout.write(TIDY)
    })
  }
  void show(stream).then(leave)
  try {
    return await left
  } finally {
    for (const f of undo.reverse()) f()
    await stream.abort()
  }
}

/** What ends it from outside. */
function endings(input: boolean, leave: (how: Left) => void): () => void {
  const { stdin, stdout } = process
  const end = (how: number | Error): void =>
    leave(typeof how === 'number' ? { why: 'signal', code: how } : { why: 'end', error: how })
  if (input) return onEnd(stdin, stdout, end)
  const codes = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const
  const undo = Object.entries(codes).map(([signal, code]) => {
    const run = (): void => end(code)
    process.on(signal, run)
    return () => void process.off(signal, run)
  })
  const closed = (): void => leave({ why: 'output' })
  stdout.on('error', closed)
  return () => {
    for (const f of undo) f()
  }
}

/** Sends what is typed, in order and no faster than it is taken; the escape key is seen whether or not anything is taken. */
function typing(stream: ByteStream, key: number, leave: (how: Left) => void): (typed: Buffer) => void {
  let waiting: Buffer[] = []
  let bytes = 0
  let busy = false
  const send = async (): Promise<void> => {
    busy = true
    while (waiting.length > 0) {
      const all = Buffer.concat(waiting)
      waiting = []
      bytes = 0
      await stream.write(all)
    }
    busy = false
  }
  return (typed) => {
    const at = typed.indexOf(key)
    const part = at === -1 ? typed : typed.subarray(0, at)
    if (bytes + part.length > TYPED_MOST) process.stdout.write('\u0007')
    else if (part.length > 0) {
      waiting.push(part)
      bytes += part.length
    }
    if (!busy) send().catch((error: Error) => leave({ why: 'end', error }))
    if (at !== -1) leave({ why: 'key' })
  }
}

async function show(stream: ByteStream): Promise<Left> {
  const { stdout } = process
  try {
    for await (const bytes of stream) {
      if (stdout.write(bytes)) continue
      await new Promise<void>((resolve) => {
        const done = (): void => {
          for (const event of ['drain', 'close', 'error']) stdout.off(event, done)
          resolve()
        }
        for (const event of ['drain', 'close', 'error']) stdout.once(event, done)
      })
    }
    return { why: 'end' }
  } catch (error) {
    return { why: 'end', error: error as Error }
  }
}
