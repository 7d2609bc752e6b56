/** One agent of one instance, from its start to its last word. */
import { rmSync } from 'node:fs'
import { rmdir } from 'node:fs/promises'
import { join } from 'node:path'
import { type Config, loadConfig } from '../config/index.ts'
import { createLogger, createMetrics, type HealthServer, type Logger, startHealthServer } from '../observe/index.ts'
import {
  heldNames,
  isPaused,
  layoutOf,
  makePlan,
  openSpool,
  publishCommitted,
  rotateEvents,
  type Spool,
  startOwner,
  stopOwner,
} from '../spool/index.ts'
import { createBatches } from './batches.ts'
import { aloneOnThisHost, carriedRound, leaving } from './carried.ts'
import { controlCommands } from './commands.ts'
import { type ControlSocket, openControlSocket } from './control-socket.ts'
import { AgentError } from './errors.ts'
import { createDependencies } from './dependencies.ts'
import { dependencyEvents } from './dependency-events.ts'
import { createEvents } from './events.ts'
import { gaugesOf, healthOf, liveness } from './gauges.ts'
import { historyRound } from './history.ts'
import { type LockResult, lockFolder, lockHost } from './host-lock.ts'
import { intakeRound } from './intake.ts'
import { createStatusWriter } from './job-status.ts'
import { type Loop, startLoop } from './loop.ts'
import { reaperElection } from './reaper.ts'
import { reread } from './reload.ts'
import { type Manager, tellManager } from './notify.ts'
import { counted } from './progress-watch.ts'
import { runtimeDir } from './runtime-dir.ts'
import { draining, type Finished } from './runner.ts'
import { createScheduler, type Scheduler } from './scheduler.ts'
import type { Agent } from './state.ts'
import { type CurrentJob, fileType, openStats, type Stats } from './stats.ts'
import { cleanupRound, heartbeatRound, publishRound, reapRound, spaceRound, tickRound } from './supervise.ts'
import { type AgentVms, createAgentVms } from './vms.ts'
import { waitingRound } from './waiting.ts'

export interface AgentOptions {
  instance: string
  root?: string | undefined
  configFile?: string | undefined
  /** joins the main agent of this instance on this host */
  worker?: boolean
  version: string
}

/**
 * Runs an agent in this process until it is told to stop (TERM, INT, the control socket).
 * @returns the exit code: 0 after an ending in good order
 * @throws AgentError, SpoolError or ConfigError with an exit code when it cannot start
 */
export async function runAgent(o: AgentOptions): Promise<number> {
  const how = {
    instance: o.instance,
    ...(o.root ? { root: o.root } : {}),
    ...(o.configFile ? { configFile: o.configFile } : {}),
  }
  const { config, warnings } = loadConfig(how)
  const log = createLogger({ level: config.log.level, base: { instance: o.instance, pid: process.pid } })
  for (const w of warnings) log.warn('config.warning', { path: w.path, message: w.message })
  const layout = layoutOf({ root: config.root, instance: o.instance, queue: config.queue, output: config.output })
  const spool = await openSpool({
    layout,
    create: true,
    leaseMs: config.lease.timeout,
    maxCrashes: config.max_crashes,
    around: counted,
    log: (event, fields) => log.info(event, fields),
  })
  const place = o.worker ? undefined : await takePlace(spool, config)
  try {
    return await live(o, how, config, log, spool, place)
  } finally {
    await place?.release()
    log.flush()
  }
}

interface Place {
  dir: string
  release(): Promise<void>
}

/** The place of the main agent on this host, and a folder for its sockets. */
async function takePlace(spool: Spool, config: Config): Promise<Place> {
  const { layout } = spool
  const holder = { pid: process.pid, since: new Date().toISOString() }
  const main = await lockHost(layout.jobs, layout.daemon, holder)
  if (!main.held) {
    const who = main.holder
      ? `pid ${main.holder.pid}, since ${main.holder.since}`
      : 'it does not answer; it may be stopped'
    throw new AgentError(
      `The main agent of the instance "${layout.instance}" in ${layout.root} runs already on this host (${who}). ` +
        'Stop it first, or join it with --worker.',
      75,
    )
  }
  let dir = runtimeDir(config.runtime_dir, layout.instance)
  let folder: LockResult = await lockFolder(dir, holder)
  for (let n = 2; !folder.held; n++) {
    // Another spool with an instance of this name lives here: the link in its output tells clients which folder is whose.
    dir = runtimeDir('', `${layout.instance}.${n}`)
    folder = await lockFolder(dir, holder)
  }
  const held = folder
  return {
    dir,
    release: async () => {
      await rmdir(dir).catch(() => {}) // ours alone, and empty by now
      await held.release()
      await main.release()
    },
  }
}

async function live(
  o: AgentOptions,
  how: Parameters<typeof loadConfig>[0],
  config: Config,
  log: Logger,
  spool: Spool,
  place: Place | undefined,
): Promise<number> {
  let scheduler: Scheduler | undefined
  let kickIntake = (): void => {}
  let vms: AgentVms | undefined
  const status = createStatusWriter(spool, (job, error) => log.warn('status.failed', { job, error }))
  const events = createEvents(spool, (error) => log.warn('events.failed', { error }))
  const a: Agent = {
    spool,
    log,
    metrics: createMetrics(async () => [...gaugesOf(a, () => scheduler), ...(await a.vms.gauges())]),
    events,
    batches: createBatches(spool, () => kickIntake()),
    dependencies: o.worker
      ? undefined
      : createDependencies(
          spool,
          dependencyEvents(() => a, status),
        ),
    held: heldNames(),
    get vms() {
      vms ??= createAgentVms(a, place?.dir ?? runtimeDir(config.runtime_dir, spool.layout.instance))
      return vms
    },
    started: new Date(),
    worker: o.worker === true,
    version: o.version,
    config,
    plan: undefined,
    running: new Map(),
    inFlight: new Set(),
    ownOwners: new Set(),
    loops: [],
    paused: false,
    draining: false,
    diskFull: undefined,
    lastMove: performance.now(),
    fenced: false,
    dispatch: () => scheduler?.dispatch(),
    publish: () => {},
    tick: () => {},
  }
  const manager = tellManager(a)
  const ending = new Ending(a)
  const finished = new Map<string, Finished>()
  const sched = createScheduler(a, { status, finished })
  scheduler = sched

  await startOwner(spool, { role: a.worker ? 'worker' : 'main', version: o.version, labels: config.host.labels })
  if (spool.owner) a.ownOwners.add(spool.owner.id)
  const stats = await openStats({
    dir: spool.layout.daemon,
    startedAt: a.started,
    current: () => currentJobs(a),
    queueDepth: () => a.plan?.size ?? 0,
    extra: () => ({ running: a.running.size, paused: a.paused, draining: a.draining, ...a.vms.counts() }),
  })
  const reload = async (): Promise<string> => reloadConfig(a, how, sched, manager)
  const stopListening = onSignals(a, ending, stats, reload)
  const sockets = await listen(a, place, sched, stats, reload, ending, config)
  a.paused = await isPaused(spool) // before anything could start
  a.plan = await makePlan(spool)

  const loops: Loop[] = []
  const loop = (name: string, ms: () => number, round: () => Promise<number | undefined> | Promise<void>): Loop => {
    const onError = (): void => a.metrics.inc('vmspool_loop_errors_total', { loop: name })
    const made = startLoop({ name, interval: ms, round, log, health: a.loops, onError })
    loops.push(made)
    return made
  }
  const elected = reaperElection()
  const carried = carriedRound(a)
  const quarter = (): number => Math.max(50, spool.leaseMs / 4)
  const intake = loop('intake', () => a.config.intake.poll_ms, intakeRound(a, sched, status))
  kickIntake = intake.kick
  loop('heartbeat', quarter, () => heartbeatRound(a, sched))
  loop('reap', quarter, () => elected(spool, () => reapRound(a, sched, intake.kick, () => carried.lookAgain())))
  const publisher = loop(
    'publish',
    () => 2_000,
    () => publishRound(a, sched, finished),
  )
  a.publish = publisher.kick
  a.tick = loop(
    'tick',
    () => 1_000,
    () => tickRound(a, sched, intake.kick),
  ).kick
  loop(
    'space',
    () => a.config.space.check_interval,
    () => spaceRound(a),
  )
  loop('waiting', () => 5_000, waitingRound(a, sched))
  loop('carried', () => 10_000, carried.round)
  loop(
    'cleanup',
    () => 60_000,
    () => cleanupRound(a),
  )
  if (!a.worker) {
    loop(
      'stats',
      () => a.config.stats.interval,
      () => stats.save(),
    )
    loop('history', () => 5_000, historyRound(a))
    loop(
      'events',
      () => 60_000,
      () => rotateEvents(spool),
    )
  }
  const watcher = await watchQueue(a, intake.kick)
  log.info('agent.ready', {
    owner: spool.owner?.id,
    root: spool.layout.root,
    queue: spool.layout.queue,
    output: spool.layout.output,
    waiting: a.plan.size,
    network: spool.remote,
    ready_ms: Math.round(performance.now()),
    ...(sockets.control ? { control: sockets.control.path } : {}),
  })

  manager.ready()
  a.vms.begin()

  await ending.over
  await watcher?.close()
  await Promise.all(loops.map((l) => l.stop()))
  await sched.idle()
  await a.vms.close()
  await publishCommitted(spool, {
    onError: (name, error) => log.error('publish.failed', { job: name.id, error }),
  }).catch((error) => log.error('publish.failed', { error }))
  await status.flush()
  await events.flush()
  if (!a.worker) await stats.save().catch((error) => log.warn('stats.failed', { error }))
  if (spool.owner) await stopOwner(spool).catch((error) => log.warn('owner.left', { error }))
  stopListening()
  await sockets.close()
  manager.ended()
  log.info('agent.stopped', { uptime_ms: Date.now() - a.started.getTime() })
  return 0
}

/** How an agent ends: it begins nothing new, waits for what runs, and after a deadline gives it back. */
class Ending {
  readonly over: Promise<void>
  private a: Agent
  private done: () => void = () => {}
  private timer: NodeJS.Timeout | undefined
  /** no agent of another host could take a command up that still runs here */
  private alone = false

  constructor(a: Agent) {
    this.a = a
    this.over = new Promise((resolve) => {
      this.done = resolve
    })
  }

  /** Drains. With a deadline (ms), what still runs then is given back. A second call gives back at once. */
  drain(why: string, deadlineMs?: number): void {
    const { a } = this
    if (a.draining) {
      if (deadlineMs !== undefined) this.giveBack('told twice to stop')
      return
    }
    a.draining = true
    a.log.info('agent.draining', { why, running: a.running.size, deadline_ms: deadlineMs })
    // A batch only waits, for jobs that this agent will not begin any more: the next one goes on with it.
    for (const job of a.running.values()) if (job.weight === 0) job.abort(draining)
    if (deadlineMs !== undefined) {
      this.timer = setTimeout(() => this.giveBack(`the drain deadline of ${deadlineMs} ms`), deadlineMs)
      void this.leaveCommands()
    }
    this.look()
  }

  /** Commands need no agent: one that has to go leaves them to the next one at once. */
  private async leaveCommands(): Promise<void> {
    const { a } = this
    this.alone = await aloneOnThisHost(a.spool).catch(() => false)
    if (!this.alone) return
    for (const job of a.running.values()) {
      if (job.claim.record.kind === 'command') job.abort(leaving)
    }
  }

  private giveBack(why: string): void {
    clearTimeout(this.timer)
    for (const job of this.a.running.values()) {
      const message = `The agent was stopped (${why}); another one goes on with the job.`
      job.abort({ kind: 'drain', message, leave: this.alone })
    }
  }

  /** Claims under way count as well as running jobs. */
  private look(): void {
    if (this.a.inFlight.size === 0 && this.a.running.size === 0) {
      clearTimeout(this.timer)
      this.done()
    } else setTimeout(() => this.look(), 20)
  }
}

function onSignals(a: Agent, ending: Ending, stats: Stats, reload: () => Promise<string>): () => void {
  const stop = (signal: NodeJS.Signals): void => ending.drain(`signal ${signal}`, a.config.drain.timeout)
  const hup = (): void => {
    reload().catch((error) => a.log.error('config.refused', { error }))
  }
  const usr1 = (): void => {
    stats.snapshot().then(
      (s) => a.log.info('stats', { stats: s }),
      (error) => a.log.warn('stats.failed', { error }),
    )
  }
  // What nobody awaited is a defect, but no reason to drop what runs.
  const defect = (error: unknown): void => a.log.error('defect', { error })
  process.on('SIGTERM', stop).on('SIGINT', stop).on('SIGHUP', hup).on('SIGUSR1', usr1)
  process.on('unhandledRejection', defect).on('uncaughtException', defect)
  return () => {
    process.off('SIGTERM', stop).off('SIGINT', stop).off('SIGHUP', hup).off('SIGUSR1', usr1)
    process.off('unhandledRejection', defect).off('uncaughtException', defect)
  }
}

async function reloadConfig(
  a: Agent,
  how: Parameters<typeof loadConfig>[0],
  scheduler: Scheduler,
  manager: Manager,
): Promise<string> {
  manager.reloading()
  try {
    return takeConfig(a, how, scheduler)
  } finally {
    manager.reloaded()
  }
}

function takeConfig(a: Agent, how: Parameters<typeof loadConfig>[0], scheduler: Scheduler): string {
  const { config, changed, needRestart } = reread(a.config, how)
  a.config = config
  a.log.setLevel(config.log.level)
  if (a.spool.owner) a.spool.owner.labels = config.host.labels
  scheduler.reconfigure()
  a.log.info('config.reloaded', { changed, need_restart: needRestart })
  const rest = needRestart.length > 0 ? ` These need a restart: ${needRestart.join(', ')}.` : ''
  return `Configuration reloaded, ${changed.length === 0 ? 'nothing changed' : `changed: ${changed.join(', ')}`}.${rest}`
}

async function listen(
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

/** Hints only: a watcher overflows silently and sees nothing that another NFS client writes; the listing is the truth. */
async function watchQueue(a: Agent, kick: () => void): Promise<{ close(): Promise<void> } | undefined> {
  try {
    const { watch } = await import('chokidar')
    const watcher = watch(a.spool.layout.queue, {
      depth: 0,
      ignoreInitial: true,
      followSymlinks: false,
      ignored: (path) => path !== a.spool.layout.queue && /\/\.[^/]*$/.test(path),
    })
    watcher.on('raw', kick).on('all', kick)
    watcher.on('error', (error) =>
      a.log.warn('watch.failed', { error, effect: 'drops are found by listing, within intake.poll_ms' }),
    )
    return watcher
  } catch (error) {
    a.log.warn('watch.failed', { error, effect: 'drops are found by listing, within intake.poll_ms' })
    return undefined
  }
}

function currentJobs(a: Agent): CurrentJob[] {
  return [...a.running.values()].map((job) => {
    const { record, name } = job.claim
    return {
      filename: record.drop.file,
      file_type: fileType(record.drop.file, record.kind),
      file_size_mb: Math.round((record.drop.bytes / 1_048_576) * 100) / 100,
      start_time: job.started_at,
      end_time: null,
      duration_seconds: Math.round(performance.now() - job.since) / 1000,
      status: name.failures > 0 ? 'retrying' : 'processing',
      error: null,
      retry_count: name.failures,
      job_id: name.id,
      name: record.answer,
    }
  })
}
