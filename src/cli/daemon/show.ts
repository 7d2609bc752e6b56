/** The instances of a host: the columns and the JSON of HyperSDK's `hyperctl daemon` (contract A4), with what is really in use. */
import { type InstanceInfo, instanceInfo, instancesBelow } from '../../client/agents.ts'
import { locate } from '../../client/place.ts'
import { type AgentUnit, agentUnits } from '../../client/units.ts'
import { exitCodes, explain } from '../errors.ts'
import { type Format, out, printValue, say, table, wantsColour } from '../output.ts'
import type { SpoolOptions } from '../spool-options.ts'
import { duration } from '../units.ts'

interface ShowOptions extends SpoolOptions {
  output: Format
}

/** @param every also with an instance named: all below the root, and all that systemd has units for */
export async function showInstances(every: boolean, o: ShowOptions): Promise<void> {
  const place = await locate(o)
  const named = every ? undefined : (o.instance ?? process.env.VMSPOOL_INSTANCE)
  const below = named ? [named] : await instancesBelow(place.layout.root)
  // The units are about the host's own spools, wherever its configuration puts these.
  const units =
    o.root === undefined && !process.env.VMSPOOL_ROOT ? await agentUnits(below) : new Map<string, AgentUnit>()
  const names = named
    ? below
    : [...new Set([...below, ...[...units.values()].filter(isWanted).map((u) => u.instance)])].sort()
  const instances = await Promise.all(
    names.map((instance) => {
      const info = instanceInfo({ ...o, instance }, units.get(instance))
      return named ? info : info.catch((error) => unreadable(instance, units.get(instance), error))
    }),
  )
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
  for (const i of instances) if (i.error !== undefined) say(`${i.name}: ${i.error}`)
  const service = instances.find((i) => i.service !== '')?.service
  if (service !== undefined && process.stderr.isTTY) {
    say(`
Useful commands:
  systemctl status ${service}
  systemctl restart ${service}
  journalctl -u ${service} -f
  vmspool daemon logs --all`)
  }
}

/** One that cannot be looked at does not hide the others. */
function unreadable(name: string, unit: AgentUnit | undefined, error: unknown): InstanceInfo {
  const state = unit === undefined || unit.state === 'inactive' ? 'unreadable' : unit.state
  return {
    name,
    service: unit?.unit ?? '',
    active: state === 'active',
    status: state,
    ...(unit?.main_pid === undefined ? {} : { main_pid: unit.main_pid }),
    watch_dir: '',
    output_dir: '',
    agents: [],
    error: explain(error).message,
  }
}

/** A unit without a spool is worth a line when somebody tried to start it. */
const isWanted = (unit: AgentUnit): boolean => unit.state !== 'inactive'

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
        { title: 'Watch Directory', value: (i) => i.watch_dir || '-' },
        { title: 'Output Directory', value: (i) => i.output_dir || '-' },
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
  return i.uptime_ms === undefined ? '-' : duration(i.uptime_ms)
}
