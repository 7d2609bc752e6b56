/** The terminal UI. Only who runs it loads ink and react. */
import type { Instance } from 'ink'
import { ClientError } from '../client/errors.ts'
import { locate, type SpoolPlace } from '../client/place.ts'
import { places } from '../client/places.ts'
import { wantsColour } from '../text/paint.ts'
import { glyphsFor } from './glyphs.ts'
import { session, type ViewName } from './session.ts'
import { onEnd, terminal } from './terminal.ts'

export interface TuiOptions extends SpoolPlace {
  version: string
  view?: ViewName
}

/**
 * Runs until somebody quits, or something ends it.
 * @returns the exit code: 0, or 128 + the signal
 * @throws ClientError 2 without a terminal, 73 without a spool; whatever went wrong inside, after the terminal was restored
 */
export async function runTui(o: TuiOptions): Promise<number> {
  const { stdin, stdout, env } = process
  if (!stdin.isTTY || !stdout.isTTY) {
    const which = stdin.isTTY ? 'the output' : 'the input'
    throw new ClientError(
      2,
      `The terminal UI needs a terminal, and ${which} is none. For scripts there are vmspool list, status, logs and daemon, with -o json.`,
    )
  }
  // Without a spool of that name the instances that there are can still be looked at.
  const all = o.view === 'instances' ? [await locate(o)] : await places(o)
  const screen = terminal(stdin, stdout)
  // From now on what is typed is not echoed: on the screen to come it would push the first lines aside.
  stdin.setRawMode(true)
  const { changes, mount } = await import('./app.ts').catch((error) => {
    screen.restore()
    throw error
  })
  const change = changes()
  const ended = Promise.withResolvers<number>()
  const end = (how: number | Error): void => (typeof how === 'number' ? ended.resolve(how) : ended.reject(how))
  let suspendInk: ((callback: () => void) => Promise<void>) | undefined

  const program = session({
    places: all,
    ...(o.config === undefined ? {} : { config: o.config }),
    version: o.version,
    glyphs: glyphsFor(env),
    view: o.view ?? 'jobs',
    changed: change.tell,
    quit: () => end(0),
    suspend() {
      suspendInk?.(() => {
        screen.left()
        // The whole group, as the terminal would do it; this line is left when somebody continues us.
        process.kill(0, 'SIGTSTP')
        // Only who is in the foreground is told of a new size: it may have changed meanwhile.
        process.emit('SIGWINCH')
        screen.enter()
      }).catch(end)
    },
    redraw() {
      suspendInk?.(() => {}).catch(end)
    },
  })

  const forget = onEnd(stdin, stdout, end)
  let ink: Instance | undefined
  const lastResort = (): void => {
    // First ink: at its end it draws once more, which would else be after we have left.
    try {
      ink?.unmount()
    } catch {
      // whatever it was that ended us
    }
    screen.restore()
  }
  process.on('exit', lastResort)
  try {
    screen.enter()
    ink = mount({
      controller: program,
      changes: change,
      style: { colour: wantsColour(stdout), attributes: env.TERM !== 'dumb' },
      onSuspend(suspend) {
        suspendInk = suspend
      },
      stdin,
      stdout,
    })
    ink.waitUntilExit().then(() => end(0), end)
    return await ended.promise
  } finally {
    program.close()
    try {
      ink?.unmount()
      await ink?.waitUntilExit()
      screen.left()
    } catch {
      // It is the error that we are here for; or the terminal is gone.
    }
    screen.restore()
    process.off('exit', lastResort)
    forget()
  }
}
