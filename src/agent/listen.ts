/** Where an agent listens: the control socket of a main agent, health and metrics. */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Config } from '../config/index.ts'
import { type HealthServer, startHealthServer } from '../observe/index.ts'
import { controlCommands } from './commands.ts'
import { type ControlSocket, openControlSocket } from './control-socket.ts'
import type { Ending } from './ending.ts'
import { AgentError } from './errors.ts'
import { healthOf, liveness } from './gauges.ts'
import type { Place } from './place.ts'
import { runtimeDir } from './runtime-dir.ts'
import type { Scheduler } from './scheduler.ts'
import type { Agent } from './state.ts'
import type { Stats } from './stats.ts'

/** @throws AgentError 73 when the metrics address cannot be used */
export async function listen(
  a: Agent,
  place: Place | undefined,
  scheduler: Scheduler,
  stats: Stats,
  reload: () => Promise<string>,
  ending: Ending,
  config: Config,
): Promise<{ control?: ControlSocket; close(): Promise<void> }> {
  const source = {
    health: () => healthOf(a, scheduler.libvirt),
    ready: () => ({
      ready: a.plan !== undefined && !a.fenced && !a.draining,
      ...(a.draining ? { reason: 'draining' } : {}),
    }),
    live: () => liveness(a),
    metrics: () => a.metrics.scrape(),
  }
  if (!place) {
    const path = join(runtimeDir(config.runtime_dir, a.spool.layout.instance), `worker-${process.pid}.sock`)
    rmSync(path, { force: true }) // of an earlier life with our pid
    const server = await startHealthServer(source, { socket: path })
    return { close: () => server.close() }
  }
  const drain = (why: string): void => ending.drain(why, why.startsWith('a stop') ? a.config.drain.timeout : undefined)
  const control = await openControlSocket({
    dir: place.dir,
    link: join(a.spool.layout.daemon, 'control.sock'),
    commands: controlCommands(a, { stats, libvirt: scheduler.libvirt, drain, reload }),
    onRequest: (command) => a.metrics.inc('vmspool_control_requests_total', { command }),
    onChange: (command, peer) => a.log.info('control.request', { command, peer }),
    onError: (error) => a.log.warn('control.error', { error }),
  })
  // A killed agent leaves its socket's name behind; the folder's lock, which we hold, says that nobody listens there.
  rmSync(join(place.dir, 'health.sock'), { force: true })
  const servers: HealthServer[] = [await startHealthServer(source, { socket: join(place.dir, 'health.sock') })]
  try {
    if (config.metrics.listen !== undefined)
      servers.push(await startHealthServer(source, { listen: config.metrics.listen }))
  } catch (error) {
    await Promise.all([control.close(), ...servers.map((s) => s.close())])
    throw new AgentError(
      `The metrics address ${config.metrics.listen} cannot be used: ${(error as Error).message}.`,
      73,
      { cause: error },
    )
  }
  return {
    control,
    close: async () => {
      await Promise.all([control.close(), ...servers.map((s) => s.close())])
    },
  }
}
