import { Argument, Command } from 'commander'
import type { ControlCommand, ControlReply } from '../../client/control.ts'
import type { Place } from '../../client/place.ts'
import { CliError, exitCodes } from '../errors.ts'
import type { ServiceOptions } from '../daemon/service.ts'
import { type Format, formatOption, out, printValue } from '../output.ts'
import { spoolOptions } from '../spool-options.ts'
import { bytes, duration, parseCount, parseDuration } from '../units.ts'
import { interruptSignal } from '../waiting.ts'

const operations = [
  'status',
  'list',
  'start',
  'restart',
  'logs',
  'pause',
  'resume',
  'reload',
  'drain',
  'stop',
  'stats',
] as const
type Operation = (typeof operations)[number]

interface Options extends ServiceOptions {
  output: Format
  wait?: boolean
  timeout?: number
}

export default function define(): Command {
  return spoolOptions(new Command('daemon'))
    .description(
      'Ask running agents, also those that were started by hand: through systemd, their leases in the spool and the control socket of the main agent on this host. Start, restart and read those that are services.',
    )
    .addArgument(new Argument('[operation]', 'what to do').choices([...operations]).default('status'))
    .option('-w, --wait', 'with drain and stop: wait until the agent has ended')
    .option('--timeout <duration>', 'with --wait: give up after this long, exit code 124', parseDuration)
    .option('--all', 'with start, restart, stop, drain and logs: all agents of this host')
    .option('-n, --lines <count>', 'with logs: the last lines (default: 50)', parseCount)
    .option('-f, --follow', 'with logs: go on with what comes')
    .addOption(formatOption())
    .addHelpText(
      'after',
      `
Operations:
  status   instances with their agents, folders, PID and uptime; with --instance one of them
           (exit code 69 when no agent of it is alive)
  list     the same, always every instance below the root
  start    start the service of the instance; with --all every one that is enabled
  restart  the same for a restart: commands go on, finished disks stay finished
  logs     what the service wrote into the journal, as JSON lines
  pause    claim no more jobs; running ones go on
  resume   go on claiming
  reload   read the configuration again, and say what changed
  drain    finish what runs, claim nothing more, then end
  stop     end now: running jobs are given back and start again with the next agent
  stats    statistics since the agent started

Examples:
  vmspool daemon status
  vmspool daemon drain --instance vsphere --wait
  vmspool daemon logs --all -f
  vmspool daemon list -o json | jq '.instances[] | select(.active | not) | .name'`,
    )
    .action(run)
}

async function run(operation: Operation, o: Options): Promise<void> {
  if (operation === 'status' || operation === 'list') {
    const { showInstances } = await import('../daemon/show.ts')
    return showInstances(operation === 'list', o)
  }
  if (operation === 'start' || operation === 'restart') {
    const { startOrRestart } = await import('../daemon/service.ts')
    return startOrRestart(operation, o)
  }
  if (operation === 'logs') {
    const { showLogs } = await import('../daemon/service.ts')
    return showLogs(o)
  }
  const { locate } = await import('../../client/place.ts')
  if (!o.all) return request(operation, await locate(o), o)
  if (operation !== 'stop' && operation !== 'drain')
    throw new CliError(
      exitCodes.usage,
      `--all does not go with ${operation}. It goes with start, restart, stop, drain and logs.`,
    )
  const { instancesBelow } = await import('../../client/agents.ts')
  const places = await Promise.all(
    (await instancesBelow((await locate(o)).layout.root)).map((instance) => locate({ ...o, instance })),
  )
  const alive = await Promise.all(places.map(mainPid))
  // All are told before one is waited for.
  await Promise.all(places.filter((_, i) => alive[i] !== undefined).map((place) => request(operation, place, o)))
}

async function request(operation: ControlCommand, place: Place, o: Options): Promise<void> {
  const before = operation === 'drain' || operation === 'stop' ? await mainPid(place) : undefined
  const reply = await ask(place, operation)
  if (o.wait && before !== undefined) await waitForEnd(place, before, o.timeout)
  if (o.output === 'json' || o.output === 'yaml') return printValue(o.output, reply)
  if (operation === 'stats') return out(statsText((reply.stats ?? {}) as Record<string, unknown>))
  out(`${o.all ? `${place.instance}: ` : ''}${reply.message ?? 'ok'}`)
}

async function ask(place: Place, operation: ControlCommand): Promise<ControlReply> {
  const { control } = await import('../../client/control.ts')
  const reply = await control(place, operation)
  if (reply.status !== 'ok') {
    throw new CliError(
      exitCodes.jobFailed,
      `The agent of "${place.instance}" refused "${operation}": ${reply.message ?? 'it gave no reason.'}`,
    )
  }
  return reply
}

async function mainPid(place: Place): Promise<string | undefined> {
  const { agentsOf } = await import('../../client/agents.ts')
  return (await agentsOf(place)).find((a) => a.state === 'alive' && a.role === 'main')?.owner
}

async function waitForEnd(place: Place, owner: string, timeoutMs: number | undefined): Promise<void> {
  const { agentsOf } = await import('../../client/agents.ts')
  const { pause } = await import('../../client/liveness.ts')
  const interrupt = interruptSignal()
  const start = performance.now()
  try {
    while ((await agentsOf(place)).some((a) => a.owner === owner && a.state !== 'dead')) {
      if (timeoutMs !== undefined && performance.now() - start > timeoutMs) {
        throw new CliError(
          exitCodes.timedOut,
          `The agent of "${place.instance}" had not ended after ${duration(timeoutMs)}. It goes on; see vmspool list --state running.`,
        )
      }
      await pause(100, interrupt.signal)
    }
  } catch (error) {
    if (!interrupt.signal.aborted) throw error
    throw new CliError(exitCodes.interrupted, 'The wait was interrupted; the agent goes on ending.')
  } finally {
    interrupt.stop()
  }
}

/** The statistics, one "name: value" line each; times and sizes as people read them. */
function statsText(stats: Record<string, unknown>): string {
  const lines: string[] = []
  const add = (value: unknown, path: string): void => {
    if (Array.isArray(value)) {
      lines.push(`${path}: ${value.length === 0 ? 'none' : ''}`.trimEnd())
      for (const item of value) lines.push(`  ${typeof item === 'object' ? JSON.stringify(item) : String(item)}`)
    } else if (typeof value === 'object' && value !== null) {
      for (const [key, inner] of Object.entries(value)) add(inner, `${path}.${key}`)
    } else {
      lines.push(`${path}: ${readable(path, value)}`)
    }
  }
  for (const [key, value] of Object.entries(stats)) add(value, key)
  return lines.join('\n')
}

function readable(key: string, value: unknown): string {
  if (typeof value !== 'number') return String(value)
  if (key.endsWith('_bytes')) return `${value} (${bytes(value)})`
  if (key.endsWith('_ms')) return `${value} (${duration(value)})`
  if (key.endsWith('_seconds')) return `${value} (${duration(value * 1000)})`
  return String(value)
}
