import { stat } from 'node:fs/promises'
import { isPaused, setPaused } from '../spool/control.ts'
import { startCommand } from '../spool/start-command.ts'
import { userName } from './cancel.ts'
import { control } from './control.ts'
import { ClientError } from './errors.ts'
import type { Place } from './place.ts'

/**
 * Pauses or resumes an instance on every host, across restarts: running jobs go on, none are claimed. Its agent here is told at once;
 * others see it with their next look. Without an agent here the request is written where agents look; they obey the one of their own user
 * and of root, since members of other groups may write there, too.
 * @throws ClientError 77 when neither the socket nor control/ may be used
 */
export async function pauseInstance(place: Place, paused: boolean, me = process.geteuid?.()): Promise<void> {
  try {
    const reply = await control(place, paused ? 'pause' : 'resume')
    if (reply.status === 'ok') return
    throw new ClientError(1, `The agent of "${place.instance}" refused: ${reply.message ?? 'it gave no reason.'}`)
  } catch (error) {
    if (!(error instanceof ClientError) || error.exitCode !== 69) throw error
  }
  const { uid } = await stat(place.layout.control)
  if (me !== 0 && me !== uid)
    throw new ClientError(
      77,
      `No agent of "${place.instance}" answers on this host, and without one only root and its user (uid ${uid}) may ${paused ? 'pause' : 'resume'} it: repeat this as one of them, or start the agent (${startCommand(place.layout)}).`,
    )
  try {
    if ((await isPaused(place.spool)) !== paused) await setPaused(place.spool, paused, userName())
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code !== 'EACCES' && code !== 'EPERM') throw error
    throw new ClientError(
      77,
      `${paused ? 'Pausing' : 'Resuming'} needs write permission in ${place.layout.control} (${code}): ask for membership of the group that owns it.`,
      { cause: error },
    )
  }
}
