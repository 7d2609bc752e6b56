/** A VM in words, for tables, for one line, and for everything there is to know. */
import type { Paint } from '../text/paint.ts'
import { age, bytes, duration } from '../text/people.ts'
import type { VmView } from './vms.ts'

const paints: Partial<Record<VmView['state'], Paint>> = {
  running: 'green',
  paused: 'yellow',
  error: 'red',
  missing: 'red',
}

export const vmPaint = (state: VmView['state']): Paint | undefined => paints[state]

/** What is being done with it, else what is wrong with it, else nothing. */
export function vmRemark(v: VmView): string {
  if (v.doing !== undefined) return `${v.doing.action}: ${v.doing.phase}`
  const [first, ...more] = v.drift
  if (first !== undefined) return more.length > 0 ? `! ${first.kind} and ${more.length} more` : `! ${first.kind}`
  if (v.desired !== undefined && v.desired !== v.state && ['running', 'stopped'].includes(v.state))
    return `should be ${v.desired}`
  return ''
}

/** A label and a value for each thing there is to know; what does not apply is left out. */
export function vmRows(v: VmView): [label: string, value: string][] {
  const why = v.state_reason === undefined || v.state_reason === 'unknown' ? '' : ` (${v.state_reason})`
  const seen = {
    libvirt: 'libvirt says so now',
    agent: `as the agent saw it ${age(v.seen.at)} ago`,
    registry: `as the registry has it, ${age(v.seen.at)} old`,
  }[v.seen.by]
  const { doing, last } = v
  const rows: [string, string | undefined][] = [
    ['Name', v.name],
    ['UUID', v.uuid],
    ['State', `${v.state}${why}${v.state_at ? ` since ${v.state_at}` : ''}; ${seen}`],
    ['Should be', v.desired],
    ['Doing', doing && `${doing.action}, phase ${doing.phase}, since ${doing.since}: vmspool status ${doing.job}`],
    [
      'Last action',
      last &&
        `${last.action} ${last.outcome} at ${last.at} (job ${last.job})${last.message ? `: ${last.message}` : ''}`,
    ],
    ['Addresses', v.addresses.join(', ')],
    ['vCPU', v.vcpus === undefined ? undefined : String(v.vcpus)],
    ['Memory', v.memory_bytes === undefined ? undefined : bytes(v.memory_bytes)],
    ['Uptime', v.uptime_ms === undefined ? undefined : duration(v.uptime_ms)],
    ['CPU', v.cpu_percent === undefined ? undefined : `${v.cpu_percent.toFixed(1)} % of one processor`],
    ['Memory used', v.memory_percent === undefined ? undefined : `${v.memory_percent.toFixed(1)} %`],
    ...(v.disks ?? []).map((d): [string, string] => [
      `Disk ${d.id}`,
      `${bytes(d.size_bytes)} ${d.format}, ${d.path}${d.base ? ` on top of ${d.base.path}` : ''}`,
    ]),
    ...(v.nics ?? []).map((n, i): [string, string] => [
      `Card ${i}`,
      `${n.network ?? (n.bridge === undefined ? '?' : `bridge:${n.bridge}`)}, ${n.mac}, ${n.model}`,
    ]),
    ['Firmware', v.firmware && `${v.firmware}, machine ${v.machine}, ${v.accelerator}`],
    ['Autostart', v.autostart === undefined ? undefined : v.autostart ? 'yes' : 'no'],
    ['Made from', v.template ?? (v.from_job === undefined ? undefined : `job ${v.from_job}`)],
    ['Made by', v.origin],
    ['Host', `${v.host}, ${v.uri}`],
    ['Seed', v.seed],
    ['Created', v.created_at],
    ...Object.entries(v.metadata ?? {}),
    ['Not asked', v.seen.why],
    ...v.drift.map((d): [string, string] => ['Differs', d.message]),
  ]
  return rows.filter((r): r is [string, string] => r[1] !== undefined && r[1] !== '')
}
