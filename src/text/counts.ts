/** How the VMs of a batch stand. */
export interface VmCounts {
  total: number
  succeeded: number
  failed: number
  running: number
  queued: number
  waiting: number
  not_run: number
  skipped: number
}

/** "3 of 10 VMs succeeded, 1 failed, 2 running": disabled ones do not count among the ten. */
export function countsText(n: VmCounts): string {
  const parts = [`${n.succeeded} of ${n.total - n.skipped} VMs succeeded`]
  const rest: [number, string][] = [
    [n.failed, 'failed'],
    [n.running, 'running'],
    [n.queued, 'queued'],
    [n.waiting, 'not started'],
    [n.not_run, 'not run'],
    [n.skipped, 'disabled'],
  ]
  for (const [count, word] of rest) if (count > 0) parts.push(`${count} ${word}`)
  return parts.join(', ')
}
