/** What systemd knows of the agents of this host. Where it does not run, or may not be asked, nothing is known. */
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'

export interface AgentUnit {
  /** agent.service, agent@vsphere.service */
  unit: string
  instance: string
  /** active, inactive, failed, activating, deactivating, reloading */
  state: string
  main_pid?: number
  /** since it was started last, while it runs */
  uptime_ms?: number
}

export const underSystemd = (): boolean => existsSync('/run/systemd/system')

export const unitName = (instance: string): string =>
  instance === 'default' ? 'agent.service' : `agent@${instance}.service`

function instanceOf(unit: string): string | undefined {
  if (unit === 'agent.service') return 'default'
  return /^agent@(.+)\.service$/.exec(unit)?.[1]
}

/** Units that systemd has loaded, and those of the named instances, where there is such a unit at all. By instance. */
export async function agentUnits(named: readonly string[] = []): Promise<Map<string, AgentUnit>> {
  if (!underSystemd()) return new Map()
  const patterns = ['agent.service', 'agent@*.service']
  const listed = await systemctl('list-units', '--all', '--plain', '--no-legend', '--no-pager', '--', ...patterns)
  const units = new Set([...listed.split('\n').flatMap((l) => l.trim().split(/\s+/)[0] || []), ...named.map(unitName)])
  if (units.size === 0) return new Map()
  const wanted = 'Id,LoadState,ActiveState,MainPID,ActiveEnterTimestampMonotonic'
  return parseUnits(await systemctl('show', '--property', wanted, '--', ...units), monotonicMicroseconds())
}

/** The blocks that `systemctl show` prints, one per unit, with an empty line between them. */
export function parseUnits(text: string, now_us: number): Map<string, AgentUnit> {
  const found = new Map<string, AgentUnit>()
  for (const block of text.split(/\n\s*\n/)) {
    const p = Object.fromEntries(
      block.split('\n').map((l) => [l.slice(0, l.indexOf('=')), l.slice(l.indexOf('=') + 1)]),
    )
    const instance = instanceOf(p.Id ?? '')
    if (instance === undefined || p.LoadState !== 'loaded') continue
    const unit: AgentUnit = { unit: p.Id as string, instance, state: p.ActiveState ?? 'unknown' }
    if (Number(p.MainPID) > 0) unit.main_pid = Number(p.MainPID)
    const since = Number(p.ActiveEnterTimestampMonotonic)
    if (unit.state === 'active' && since > 0) unit.uptime_ms = Math.max(0, Math.round((now_us - since) / 1000))
    found.set(instance, unit)
  }
  return found
}

/** On the clock of systemd's "Monotonic" stamps. */
const monotonicMicroseconds = (): number => Number(process.hrtime.bigint() / 1000n)

/** What it prints; nothing when it fails: a view then shows what the leases say. */
function systemctl(...args: string[]): Promise<string> {
  return new Promise((resolve) => {
    execFile('systemctl', args, { timeout: 10_000, maxBuffer: 1 << 24 }, (error, stdout) =>
      resolve(error ? '' : stdout),
    )
  })
}
