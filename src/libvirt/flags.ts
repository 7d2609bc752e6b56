/*
 * Options that libvirt takes as bits, by name. Source: <libvirt/libvirt-domain.h>, -network.h and -storage.h.
 * Drivers refuse bits that they do not know with code 8 (invalid_argument): the test driver takes few, and no `nvram` in undefine.
 */

export const DefineFlags = { validate: 1 } as const
export const CreateFlags = {
  paused: 1,
  /** the domain ends when this connection does */
  autodestroy: 2,
  bypass_cache: 4,
  /** throws a managed save image away instead of restoring it */
  force_boot: 8,
  validate: 16,
  /** since libvirt 8.1 */
  reset_nvram: 32,
} as const
export const ShutdownFlags = {
  /** the power button; a guest that still boots does not notice it, so repeat it */
  acpi: 1,
  /** blocks up to a minute when the agent in the guest does not answer */
  agent: 2,
  initctl: 4,
  signal: 8,
  paravirt: 16,
} as const
export const DestroyFlags = {
  /** SIGTERM only: fails with operation_failed instead of killing a QEMU that does not end */
  graceful: 1,
  /** since libvirt 8.3 */
  remove_logs: 2,
} as const
export const UndefineFlags = {
  managed_save: 1,
  snapshots_metadata: 2,
  nvram: 4,
  keep_nvram: 8,
  checkpoints_metadata: 16,
  /** since libvirt 8.9 */
  tpm: 32,
  keep_tpm: 64,
} as const
export const XmlFlags = { secure: 1, inactive: 2, update_cpu: 4, migratable: 8 } as const
export const ConsoleFlags = {
  /** ends whoever has the console open */
  force: 1,
  /** an error where the driver cannot keep two from using one console */
  safe: 2,
} as const
/** Names of one group widen the answer, groups narrow it. */
export const ListDomainsFlags = {
  active: 1,
  inactive: 2,
  persistent: 4,
  transient: 8,
  running: 16,
  paused: 32,
  shutoff: 64,
  other: 128,
  managed_save: 256,
  no_managed_save: 512,
  autostart: 1024,
  no_autostart: 2048,
} as const
export const StatsGroups = {
  state: 1,
  cpu_total: 2,
  balloon: 4,
  vcpu: 8,
  interface: 16,
  block: 32,
  perf: 64,
  iothread: 128,
  memory: 256,
  dirtyrate: 512,
  vm: 1024,
} as const
export const StatsFlags = {
  active: 1,
  inactive: 2,
  persistent: 4,
  transient: 8,
  running: 16,
  paused: 32,
  shutoff: 64,
  other: 128,
  /** leaves out what a busy domain would block for, instead of blocking */
  nowait: 2 ** 29,
  backing: 2 ** 30,
  /** an error instead of silence for a group that the driver lacks */
  enforce: 2 ** 31,
} as const
export const ManagedSaveFlags = { bypass_cache: 1, running: 2, paused: 4 } as const
/** Neither: whatever the domain's state makes sensible. */
export const ImpactFlags = { live: 1, config: 2 } as const

export const NetworkDefineFlags = { validate: 1 } as const
export const NetworkXmlFlags = { inactive: 1 } as const
export const ListNetworksFlags = {
  inactive: 1,
  active: 2,
  persistent: 4,
  transient: 8,
  autostart: 16,
  no_autostart: 32,
} as const

export const ListPoolsFlags = {
  inactive: 1,
  active: 2,
  persistent: 4,
  transient: 8,
  autostart: 16,
  no_autostart: 32,
} as const
export const PoolStartFlags = { build: 1, build_overwrite: 2, build_no_overwrite: 4 } as const
export const PoolBuildFlags = { repair: 1, resize: 2, no_overwrite: 4, overwrite: 8 } as const
export const StorageXmlFlags = { inactive: 1 } as const
export const VolumeCreateFlags = { prealloc_metadata: 1, reflink: 2 } as const
export const VolumeDeleteFlags = { zeroed: 1, with_snapshots: 2 } as const
export const VolumeResizeFlags = { allocate: 1, delta: 2, shrink: 4 } as const

export type FlagsOf<T> = readonly (keyof T & string)[]

/** The bits of `names`. @throws TypeError for a name that the table does not have */
export function bits<T extends Readonly<Record<string, number>>>(table: T, names: FlagsOf<T> = []): number {
  let value = 0
  for (const name of names) {
    const bit = Object.hasOwn(table, name) ? table[name] : undefined
    if (bit === undefined) {
      throw new TypeError(
        `${JSON.stringify(name)} is no flag of this call; these are: ${Object.keys(table).join(', ')}.`,
      )
    }
    value |= bit
  }
  return value >>> 0
}
