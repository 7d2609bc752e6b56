/** One agent of one instance, from its start to its last word. */
import { type Config, loadConfig } from '../config/index.ts'
import { createLogger, createMetrics, type Logger } from '../observe/index.ts'
import {
  heldNames,
  isPaused,
  layoutOf,
  makePlan,
  openSpool,
  publishCommitted,
  requireOwnSpool,
  rotateEvents,
  type Spool,
  startOwner,
  stopOwner,
} from '../spool/index.ts'
import { createBatches } from './batches.ts'
import { carriedRound } from './carried.ts'
import { createDependencies } from './dependencies.ts'
import { dependencyEvents } from './dependency-events.ts'
import { createEnding, type Ending } from './ending.ts'
import { createEvents } from './events.ts'
import { gaugesOf } from './gauges.ts'
import { historyRound } from './history.ts'
import { intakeRound } from './intake.ts'
import { createStatusWriter } from './job-status.ts'
import { listen } from './listen.ts'
import { type Loop, startLoop } from './loop.ts'
import { type Place, takePlace } from './place.ts'
import { reaperElection } from './reaper.ts'
import { reread } from './reload.ts'
import { type Manager, tellManager } from './notify.ts'
import { counted } from './progress-watch.ts'
import { runtimeDir } from './runtime-dir.ts'
import type { Finished } from './conclude.ts'
import { createScheduler, type Scheduler } from './scheduler.ts'
import type { Agent, AgentVms } from './state.ts'
import { type CurrentJob, fileType, openStats, type Stats } from './stats.ts'
import { cleanupRound, heartbeatRound, publishRound, reapRound, spaceRound, tickRound } from './supervise.ts'
import { createAgentVms } from './vms.ts'
import { waitingRound } from './waiting.ts'
import { watchQueue } from './watch-queue.ts'

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
  requireOwnSpool(layout, 'This agent would run')
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
  const ending = createEnding(a)
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
