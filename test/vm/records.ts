// Entries of a registry, as tests need them.
import { uuidOfVm } from '../../src/domain/index.ts'
import { openRegistry, type Registry } from '../../src/vm/registry.ts'
import type { VmRecord } from '../../src/vm/types.ts'

export const INSTANCE = 'here'
export const HOST = 'h1'

export function record(name: string, more: Partial<VmRecord> = {}): VmRecord {
  const at = '2026-11-01T12:00:00.000Z'
  return {
    uuid: uuidOfVm(INSTANCE, name),
    name,
    host: HOST,
    uri: 'qemu:///system',
    desired: 'running',
    order: { job: '01ARZ3NDEKTSV4RRFFQ69G5FAV', epoch: 1 },
    origin: 'vm',
    vcpus: 1,
    memory_bytes: 2 ** 28,
    disks: [],
    nics: [],
    firmware: 'bios',
    machine: 'q35',
    accelerator: 'qemu',
    autostart: false,
    metadata: {},
    state: 'running',
    state_reason: 'booted',
    state_at: at,
    addresses: [],
    created_at: at,
    updated_at: at,
    ...more,
  }
}

/** what the registry wrote to the log, too */
export async function open(
  dir: string,
  o: { instance?: string; host?: string } = {},
): Promise<Registry & { said: { event: string; fields: Record<string, unknown> }[] }> {
  const said: { event: string; fields: Record<string, unknown> }[] = []
  const registry = await openRegistry({
    dir,
    instance: o.instance ?? INSTANCE,
    host: o.host ?? HOST,
    log: (_, event, fields) => void said.push({ event, fields }),
  })
  return Object.assign(registry, { said })
}

/** adds one to a number in the entry's metadata */
export const plusOne =
  (name: string) =>
  (r: VmRecord | undefined): VmRecord => {
    const now = r ?? record(name, { metadata: { n: '0' } })
    return { ...now, metadata: { ...now.metadata, n: String(Number(now.metadata.n) + 1) } }
  }
