/** Which agents there are, below a root or of one instance, whoever started them. */
import { readdir, readFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import type { Lease } from '../spool/index.ts'
import { type ControlReply, control } from './control.ts'
import { ClientError } from './errors.ts'
import { watchAgents } from './liveness.ts'
import { locate, type Place, type SpoolPlace } from './place.ts'
import type { AgentUnit } from './units.ts'

export interface AgentInfo {
  owner: string
  role: 'main' | 'worker'
  host: string
  pid: number
  /** unknown: its host is another one, and nobody watched its lease for long enough */
  state: 'alive' | 'dead' | 'unknown'
  started_at: string
  uptime_ms?: number
  /** the systemd unit it runs in, if it does */
  service?: string
}

export interface InstanceInfo {
  name: string
  /** the systemd unit of its main agent, or of the agent that is to be started; empty for one that was started by hand */
  service: string
  active: boolean
  /** active, paused, draining; of a unit that does not run what systemd calls that (failed, activating); inactive, unknown */
  status: string
  /** the unit's main process as systemd has it, else the main agent's */
  main_pid?: number
  uptime?: string
  uptime_ms?: number
  watch_dir: string
  output_dir: string
  agents: AgentInfo[]
  /** why no more is known: its configuration has errors, its folders may not be read */
  error?: string
  /** of a main agent on this host that has to do with VMs: whether libvirt is there */
  libvirt?: { uri: string; state: string; since: string; reason?: string; jobs_waiting: number; next_try?: string }
  /** of such an agent: its VMs by state, and what does not agree */
  vms?: { states: Record<string, number>; drift?: number; orphans?: number; problems: number; seen_at?: string }
}

/** The names of the instances below a root: the folders that hold leases. */
export async function instancesBelow(root: string): Promise<string[]> {
  try {
    const entries = await readdir(root, { withFileTypes: true })
    const names = await Promise.all(
      entries
        .filter((e) => e.isDirectory() && !e.name.startsWith('.'))
        .map(async (e) => ((await isSpool(`${root}/${e.name}`)) ? e.name : undefined)),
    )
    return names.filter((n) => n !== undefined).sort()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}

async function isSpool(dir: string): Promise<boolean> {
  try {
    const names = await readdir(dir)
    return names.includes('owners') && names.includes('jobs')
  } catch {
    return false
  }
}

export async function instanceInfo(o: SpoolPlace & { instance: string }, unit?: AgentUnit): Promise<InstanceInfo> {
  const place = await locate(o)
  const agents = (await agentsOf(place)).map((a) => knownToSystemd(a, unit))
  const alive = agents.filter((a) => a.state === 'alive')
  const main = alive.find((a) => a.role === 'main') ?? alive[0]
  const reply = alive.length > 0 ? await askStatus(place) : undefined
  const info: InstanceInfo = {
    name: place.instance,
    service: main === undefined ? (unit?.unit ?? '') : (main.service ?? ''),
    active: alive.length > 0,
    status: alive.length > 0 ? liveStatus(reply) : idleStatus(agents, unit),
    watch_dir: place.layout.queue,
    output_dir: place.layout.output,
    agents,
  }
  if (main !== undefined) {
    info.main_pid = main.pid
    if (reply?.libvirt) info.libvirt = reply.libvirt as NonNullable<InstanceInfo['libvirt']>
    if (reply?.vms) info.vms = reply.vms as NonNullable<InstanceInfo['vms']>
    const own = main.pid === unit?.main_pid && main.host === hostname() ? unit.uptime_ms : undefined
    const uptime_ms = own ?? main.uptime_ms
    if (uptime_ms !== undefined) Object.assign(info, { uptime: `${Math.floor(uptime_ms / 1000)}s`, uptime_ms })
  } else if (unit?.main_pid !== undefined) info.main_pid = unit.main_pid
  return info
}

/** The main process of an active unit lives, whatever its lease says so far. */
function knownToSystemd(a: AgentInfo, unit: AgentUnit | undefined): AgentInfo {
  if (unit?.state !== 'active' || a.pid !== unit.main_pid || a.host !== hostname() || a.state === 'dead') return a
  return { ...a, state: 'alive', service: unit.unit }
}

function idleStatus(agents: readonly AgentInfo[], unit: AgentUnit | undefined): string {
  if (unit !== undefined && unit.state !== 'inactive') return unit.state
  return agents.some((a) => a.state === 'unknown') ? 'unknown' : 'inactive'
}

/** undefined of a worker, or of the main agent on another host: alive by its lease, but not to be asked from here */
async function askStatus(place: Place): Promise<ControlReply | undefined> {
  try {
    return await control(place, 'status', { timeoutMs: 2000 })
  } catch (error) {
    if (error instanceof ClientError) return undefined
    throw error
  }
}

const liveStatus = (reply: ControlReply | undefined): string =>
  reply?.draining === true ? 'draining' : reply?.paused === true ? 'paused' : 'active'

export async function agentsOf(place: Place): Promise<AgentInfo[]> {
  const seen = await watchAgents(place, place.config.lease.timeout).look()
  return Promise.all(seen.map(async ({ lease, state }) => agentInfo(lease, state)))
}

async function agentInfo(lease: Lease, state: AgentInfo['state']): Promise<AgentInfo> {
  const info: AgentInfo = {
    owner: lease.owner,
    role: lease.role,
    host: lease.host,
    pid: lease.pid,
    state,
    started_at: lease.started_at,
  }
  if (state === 'alive') info.uptime_ms = Math.max(0, Date.now() - Date.parse(lease.started_at))
  if (state === 'alive' && lease.host === hostname()) {
    const service = await unitOf(lease.pid)
    if (service !== undefined) info.service = service
  }
  return info
}

/** The systemd service a process runs in, as its control group says: no systemctl needed. */
async function unitOf(pid: number): Promise<string | undefined> {
  try {
    const groups = await readFile(`/proc/${pid}/cgroup`, 'utf8')
    return /\/((?:agent|vmspool)[^/\n]*\.service)/.exec(groups)?.[1]
  } catch {
    return undefined
  }
}
