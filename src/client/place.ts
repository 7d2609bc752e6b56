/** Finding the spool a client is about, and looking whether it is there. */
import { access, constants, readdir } from 'node:fs/promises'
import type { Config } from '../config/index.ts'
import { quickPlaces } from '../config/quick.ts'
import { layoutOf, type Layout } from '../spool/layout.ts'
import { makeSpool, type Spool } from '../spool/spool.ts'
import { startCommand } from '../spool/start-command.ts'
import { ClientError } from './errors.ts'

/** Which spool. Everything left out comes from the environment and the configuration files, as for an agent. */
export interface SpoolPlace {
  /** default: $VMSPOOL_INSTANCE, else "default" */
  instance?: string
  /** the folder of all spools; default: $VMSPOOL_ROOT, else as configured, else /var/lib/vmspool (root) or $XDG_DATA_HOME/vmspool */
  root?: string
  /** one more configuration file */
  config?: string
}

/** What a view needs to know of a spool. */
export interface View {
  instance: string
  layout: Layout
  /** the spool for reading and for dropping: no owner, no lease */
  spool: Spool
  /** history.path, when it is set */
  history?: string | undefined
}

export interface Place extends View {
  config: Config
}

export const defaultInstance = 'default'

/** Reads the configuration and works out the folders. Touches nothing. */
export async function locate(o: SpoolPlace = {}): Promise<Place> {
  const { loadConfig } = await import('../config/index.ts')
  const instance = o.instance ?? (process.env.VMSPOOL_INSTANCE || defaultInstance)
  const { config } = loadConfig({ instance, root: o.root, configFile: o.config, env: process.env })
  const layout = layoutOf({ root: config.root, instance: config.instance, queue: config.queue, output: config.output })
  return { instance: config.instance, layout, config, spool: makeSpool({ layout }), history: config.history.path }
}

/** The same for a view, without the schemas and the YAML of the configuration wherever they can make no difference. */
export async function locateView(o: SpoolPlace = {}): Promise<View> {
  const instance = o.instance ?? (process.env.VMSPOOL_INSTANCE || defaultInstance)
  const quick = quickPlaces({ instance, root: o.root, configFile: o.config, env: process.env })
  if (quick === undefined) return locate(o)
  const layout = layoutOf({ ...quick, instance })
  return { instance, layout, spool: makeSpool({ layout }), history: quick.history }
}

/**
 * A client needs the queue to write and the output to read, not jobs/. It never makes a spool: a typing mistake in
 * --instance would otherwise be a queue that nobody works.
 * @throws ClientError 73 when the spool is not there, 77 when it may not be used
 */
export async function requireSpool(place: View, need: 'read' | 'submit'): Promise<void> {
  const l = place.layout
  try {
    // readdir, not access: on NFS a cached "no such folder" is up to 30 s old
    await readdir(l.output)
    if (need === 'submit') await access(l.queue, constants.W_OK | constants.X_OK)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    const path = (error as NodeJS.ErrnoException).path ?? l.output
    if (code === 'ENOENT' || code === 'ENOTDIR') {
      throw new ClientError(
        73,
        `There is no spool "${place.instance}" below ${l.root}: ${path} does not exist. Start its agent once ` +
          `(${startCommand(l)}), start a command (vmspool run), or name another spool with --instance and --root.`,
        { cause: error },
      )
    }
    if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS') {
      throw new ClientError(
        77,
        `${path} of the spool "${place.instance}" may not be ${need === 'submit' && path === l.queue ? 'written' : 'read'} by this user (${code}). ` +
          'Ask for membership of the group that owns it.',
        { cause: error },
      )
    }
    throw error
  }
}
