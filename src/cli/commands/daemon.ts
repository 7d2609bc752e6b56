import { Argument, Command } from 'commander'
import type { InstanceInfo } from '../../client/agents.ts'
import type { ControlCommand, ControlReply } from '../../client/control.ts'
import type { Place } from '../../client/place.ts'
import { CliError, exitCodes } from '../errors.ts'
import { type Format, formatOption, out, printValue, say, table, wantsColour } from '../output.ts'
import { type SpoolOptions, spoolOptions } from '../spool-options.ts'
import { bytes, duration, parseDuration } from '../units.ts'
import { interruptSignal } from '../waiting.ts'

const operations = ['status', 'list', 'pause', 'resume', 'reload', 'drain', 'stop', 'stats'] as const
type Operation = (typeof operations)[number]

interface Options extends SpoolOptions {
  output: Format
  wait?: boolean
  timeout?: number
}

export default function define(): Command {
  return spoolOptions(new Command('daemon'))
    .description(
      'Ask running agents, also those that were started by hand: through their leases in the spool and the control socket of the main agent on this host.',
    )
    .addArgument(new Argument('[operation]', 'what to do').choices([...operations]).default('status'))
    .option('-w, --wait', 'with drain and stop: wait until the agent has ended')
    .option('--timeout <duration>', 'with --wait: give up after this long, exit code 124', parseDuration)
    .addOption(formatOption())
    .addHelpText(
      'after',
      `
Operations:
  status   instances with their agents, folders, PID and uptime; with --instance one of them
           (exit code 69 when no agent of it is alive)
  list     the same, always every instance below the root
  pause    claim no more jobs; running ones go on
  resume   go on claiming
  reload   read the configuration again, and say what changed
  drain    finish what runs, claim nothing more, then end
  stop     end now: running jobs are given back and start again with the next agent
  stats    statistics since the agent started

Examples:
  vmspool daemon status
  vmspool daemon drain --instance vsphere --wait
  vmspool daemon list -o json | jq '.instances[] | select(.active | not) | .name'`,
    )
    .action(run)
}

async function run(operation: Operation, o: Options): Promise<void> {
  if (operation === 'status' || operation === 'list') return showInstances(operation, o)
  const { locate } = await import('../../client/place.ts')
  const place = await locate(o)
  const before = operation === 'drain' || operation === 'stop' ? await mainPid(place) : undefined
  const reply = await ask(place, operation)
  if (o.wait && before !== undefined) await waitForEnd(place, before, o.timeout)
  if (o.output === 'json' || o.output === 'yaml') return printValue(o.output, reply)
  if (operation === 'stats') return out(statsText((reply.stats ?? {}) as Record<string, unknown>))
  out(`${reply.message ?? 'ok'}`)
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

async function showInstances(operation: Operation, o: Options): Promise<void> {
  const { instanceInfo, instancesBelow } = await import('../../client/agents.ts')
  const { locate } = await import('../../client/place.ts')
  const place = await locate(o)
  const named = operation === 'status' ? (o.instance ?? process.env.VMSPOOL_INSTANCE) : undefined
  const names = named ? [named] : await instancesBelow(place.layout.root)
  const instances = await Promise.all(names.map((instance) => instanceInfo({ ...o, instance })))
  if (named && !instances.some((i) => i.active)) process.exitCode = exitCodes.noAgent
  if (o.output === 'json' || o.output === 'yaml') {
    const none = instances.length === 0 ? { message: `No vmspool instances found below ${place.layout.root}` } : {}
    return printValue(o.output, { instances, total: instances.length, ...none })
  }
  if (o.output === 'name') {
    for (const i of instances) out(i.name)
    return
  }
  if (instances.length === 0) {
    say(
      `There are no instances below ${place.layout.root}. Start an agent: vmspool agent NAME --root ${place.layout.root}`,
    )
    return
  }
  printInstances(instances)
}

function printInstances(instances: readonly InstanceInfo[]): void {
  const colour = wantsColour(process.stdout)
  out(
    table(
      instances,
      [
        { title: 'Instance', value: (i) => i.name },
        { title: 'Service', value: (i) => i.service || '-' },
        { title: 'Status', value: (i) => i.status, paint: (i) => (i.status === 'active' ? 'green' : 'yellow') },
        { title: 'PID', value: (i) => (i.main_pid === undefined ? '-' : String(i.main_pid)), right: true },
        { title: 'Uptime', value: (i) => uptimeOf(i), right: true },
        { title: 'Agents', value: (i) => String(i.agents.filter((a) => a.state !== 'dead').length), right: true },
      ],
      colour,
    ),
  )
  const away = instances.filter((i) => i.libvirt !== undefined && i.libvirt.state !== 'connected')
  for (const { name, libvirt } of away) {
    const { uri, since, reason, jobs_waiting, next_try } = libvirt!
    const jobs =
      jobs_waiting === 0 ? 'No job waits' : jobs_waiting === 1 ? '1 VM job waits' : `${jobs_waiting} VM jobs wait`
    const again = next_try === undefined ? '' : ` It is asked again at ${next_try}.`
    out('')
    out(
      `libvirt (${uri}) is away for ${name} since ${since}: ${reason ?? 'it has not answered yet.'} ${jobs} for it.${again}`,
    )
  }
  for (const i of instances) {
    const line = vmsLine(i)
    if (line !== undefined) out(`\n${line}`)
  }
  out('')
  out(
    table(
      instances,
      [
        { title: 'Instance', value: (i) => i.name },
        { title: 'Watch Directory', value: (i) => i.watch_dir },
        { title: 'Output Directory', value: (i) => i.output_dir },
      ],
      colour,
    ),
  )
}

function vmsLine({ name, vms }: InstanceInfo): string | undefined {
  if (vms === undefined) return undefined
  const states = Object.entries(vms.states).flatMap(([state, n]) => (n > 0 ? [`${n} ${state}`] : []))
  const wrong = [
    vms.drift ? `${vms.drift} differ from what they should be (vmspool vm list)` : '',
    vms.orphans ? `${vms.orphans} left over (vmspool vm gc)` : '',
    vms.problems ? `the registry was damaged (vmspool doctor)` : '',
  ].filter(Boolean)
  if (states.length + wrong.length === 0) return undefined
  return `VMs of ${name}: ${[states.join(', ') || 'none', ...wrong].join('; ')}.`
}

function uptimeOf(i: InstanceInfo): string {
  const main = i.agents.find((a) => a.pid === i.main_pid && a.state === 'alive')
  return main?.uptime_ms === undefined ? '-' : duration(main.uptime_ms)
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
