/** ghostctl's tables (contracts B1), for scripts and eyes that are used to them. */
import type { VmView } from '../../client/vms.ts'
import { cell, plain } from '../../text/width.ts'
import { duration } from '../units.ts'

const GIB = 2 ** 30
const columns: readonly [title: string, cells: number, value: (v: VmView) => string][] = [
  ['VM ID', 20, (v) => v.name],
  ['Name', 30, (v) => v.name],
  ['Status', 15, ghostState],
  ['IP Address', 15, (v) => v.addresses[0] ?? ''],
]

export function ghostList(vms: readonly VmView[]): string {
  if (vms.length === 0) return 'No VMs found'
  const line = (value: (c: (typeof columns)[number]) => string): string =>
    columns
      .map((c) => cell(value(c), c[1]))
      .join(' ')
      .trimEnd()
  return [line((c) => c[0]), '-'.repeat(80), ...vms.map((v) => line((c) => plain(c[2](v))))].join('\n')
}

export function ghostStatus(v: VmView): string {
  const boot = v.disks?.[0]?.size_bytes
  const rows: [string, string][] = [
    ['VM ID', v.name],
    ['Name', v.name],
    ['Status', ghostState(v)],
    ['vCPU', String(v.vcpus ?? '')],
    ['RAM', v.memory_bytes === undefined ? '' : `${gib(v.memory_bytes)} GB`],
    ['Disk', boot === undefined ? '' : `${gib(boot)} GB`],
    ['IP Address', v.addresses[0] ?? ''],
    ['Uptime', v.uptime_ms === undefined ? '' : duration(v.uptime_ms)],
    ['CPU Usage', v.cpu_percent === undefined ? '' : `${v.cpu_percent.toFixed(1)}%`],
    ['RAM Usage', v.memory_percent === undefined ? '' : `${v.memory_percent.toFixed(1)}%`],
  ]
  return rows.map(([k, value]) => `${`${k}:`.padEnd(12)}${plain(value)}`.trimEnd()).join('\n')
}

const gib = (bytes: number): string => String(Math.round((bytes / GIB) * 100) / 100)

/** Ghost knows running, stopped, paused and error. */
function ghostState(v: VmView): string {
  return v.state === 'missing' || v.state === 'unknown' ? 'error' : v.state
}
