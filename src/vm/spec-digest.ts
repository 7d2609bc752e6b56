import { createHash } from 'node:crypto'
import type { VmSpec } from './types.ts'

/** What tells two orders to create a VM apart. Who gave it, from where, and how long they wait, does not; nor where a job's disks lie by now. */
export function digestOf(spec: VmSpec): string {
  const { address_timeout_ms: _, boot, ...more } = spec
  const from = boot.from === 'job' ? { ...boot, disks: boot.disks.map(({ id, format }) => ({ id, format })) } : boot
  const asked = { ...more, boot: from }
  return createHash('sha256').update(JSON.stringify(asked, plain)).digest('hex')
}

/** Keys in one order; rights and roots are those of the submitter. */
function plain(key: string, value: unknown): unknown {
  if (key === 'submitter' || key === 'import_roots') return undefined
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
}
