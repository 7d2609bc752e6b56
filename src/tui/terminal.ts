/**
 * What the program does to the terminal, and that it is undone however the program ends: by itself, by a signal, by an error anywhere,
 * by the terminal going away. (KILL cannot be caught: then `reset` or `stty sane; tput rmcup` helps.)
 */
import { writeSync } from 'node:fs'

/** Lines that are longer than the screen are cut by it, not continued: one width that we and it count differently harms one line only. */
const noWrap = '\u001b[?7l'
/**
 * The other screen, whose cursor is where it was on this one: behind what was typed while we started. ink enters it too, which
 * changes nothing any more, and counts on the first column.
 */
const enter = '\u001b[?1049h\u001b[H'
const wrapAgain = '\u001b[?7h'
/** Colours off, pasted text unmarked, the other screen left, the cursor shown. */
const leave = '\u001b[0m\u001b[?2004l\u001b[?1049l\u001b[?25h'

export interface Terminal {
  /** call before ink does, at the beginning and after a stop */
  enter(): void
  /** call when it was left in an orderly way */
  left(): void
  /** undoes everything at once, if it was not; safe to call at any time, and twice */
  restore(): void
}

export function terminal(stdin: NodeJS.ReadStream, stdout: NodeJS.WriteStream & { fd?: number }): Terminal {
  let inside = false
  const write = (text: string): void => {
    try {
      writeSync(stdout.fd ?? 1, text)
    } catch {
      // the terminal is gone, and with it what there was to undo
    }
  }
  return {
    enter() {
      inside = true
      write(enter + noWrap)
    },
    left() {
      if (inside) write(wrapAgain)
      inside = false
    },
    restore() {
      try {
        stdin.setRawMode(false)
      } catch {
        // gone
      }
      if (inside) write(wrapAgain + leave)
      inside = false
    },
  }
}

const signals = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const

/**
 * Everything that ends the program from outside.
 * @param end called with the exit code that says why, or with an error
 * @returns takes the handlers away again
 */
export function onEnd(
  stdin: NodeJS.ReadStream,
  stdout: NodeJS.WriteStream,
  end: (how: number | Error) => void,
): () => void {
  const undo: (() => void)[] = []
  const on = (emitter: NodeJS.EventEmitter, event: string, run: (...args: never[]) => void): void => {
    emitter.on(event, run as () => void)
    undo.push(() => emitter.off(event, run as () => void))
  }
  for (const [signal, code] of Object.entries(signals)) on(process, signal, () => end(code))
  on(process, 'uncaughtException', (error: Error) => end(error))
  on(process, 'unhandledRejection', (error: unknown) => end(error instanceof Error ? error : new Error(String(error))))
  // A terminal that hung up reads as the end of the input, and writing to it fails.
  for (const event of ['end', 'close', 'error']) on(stdin, event, () => end(signals.SIGHUP))
  on(stdout, 'error', () => end(signals.SIGHUP))
  return () => {
    for (const f of undo) f()
  }
}
