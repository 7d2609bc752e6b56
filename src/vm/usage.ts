/** What VMs use, all of them in one call that waits for no guest (`nowait`). */
import type { DomainStats, Session } from '../libvirt/index.ts'
import type { VmUsage } from './report.ts'
import type { VmRecord } from './types.ts'

/** @param before what was seen the last time: processor time is a difference */
export async function usageOf(
  s: Session,
  records: readonly VmRecord[],
  before: Readonly<Record<string, VmUsage>>,
  signal: AbortSignal,
): Promise<Record<string, VmUsage>> {
  const names = new Map(records.filter((r) => r.state === 'running').map((r) => [r.uuid, r.name]))
  if (names.size === 0) return {}
  const all = await s.query.domains.stats(
    { groups: ['state', 'cpu_total', 'balloon', 'interface', 'block'], flags: ['active', 'nowait'] },
    { signal },
  )
  const now = new Date()
  const used: Record<string, VmUsage> = {}
  for (const d of all) {
    const name = names.get(d.domain.uuid)
    if (name !== undefined) used[name] = one(d, now, before[name])
  }
  return used
}

function one(d: DomainStats, now: Date, before: VmUsage | undefined): VmUsage {
  const n = (key: string): number | undefined => {
    const v = d.values[key]
    return v === undefined ? undefined : Number(v)
  }
  const sum = (count: string, key: (i: number) => string): number | undefined => {
    const many = n(count)
    if (many === undefined) return undefined
    let total = 0
    for (let i = 0; i < many; i++) total += n(key(i)) ?? 0
    return total
  }
  const kib = (key: string): number | undefined => {
    const v = n(key)
    return v === undefined ? undefined : v * 1024
  }
  const cpu_time_ms = Math.round((n('cpu.time') ?? 0) / 1e6)
  const passed = before ? now.getTime() - Date.parse(before.at) : 0
  const ran = before ? cpu_time_ms - before.cpu_time_ms : -1
  const usable = kib('balloon.usable')
  const available = kib('balloon.available')
  const usage: VmUsage = {
    at: now.toISOString(),
    cpu_time_ms,
    memory_bytes: kib('balloon.current'),
    rss_bytes: kib('balloon.rss'),
    memory_used_bytes: usable === undefined || available === undefined ? undefined : available - usable,
    read_bytes: sum('block.count', (i) => `block.${i}.rd.bytes`),
    written_bytes: sum('block.count', (i) => `block.${i}.wr.bytes`),
    received_bytes: sum('net.count', (i) => `net.${i}.rx.bytes`),
    sent_bytes: sum('net.count', (i) => `net.${i}.tx.bytes`),
  }
  // a smaller time is that of another boot
  if (passed > 0 && ran >= 0) usage.cpu_percent = Math.round((ran / passed) * 1000) / 10
  return usage
}
