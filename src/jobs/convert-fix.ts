/** What a manifest and the configuration ask to be done inside the guest. */
import { createHash } from 'node:crypto'
import { isIP } from 'node:net'
import type { FixPlan, GuestConfiguration, GuestToolSettings } from '../convert/index.ts'
import { type ConvertManifest, networkFileTypes } from '../manifest/index.ts'

/** The part of a plan that concerns the guest; empty when nothing is asked for. */
export function guestPlan(
  m: ConvertManifest,
  config: unknown,
): { fix?: FixPlan; guest_info?: boolean; guest_tools?: GuestToolSettings } {
  const c = section(section(config).fix)
  const wanted = m.pipeline?.fix
  const options = wanted?.enabled ? { ...asked(wanted), ...defaults(wanted, c) } : undefined
  const configuration = m.configuration ? guestConfiguration(m.configuration) : undefined
  const guest_info = m.pipeline?.inspect?.collect_guest_info === true
  const guest_tools = guestTools(config)
  if (!options && !configuration) return guest_info ? { guest_info, guest_tools } : {}
  const machine: FixPlan['machine'] = {
    firmware: m.vm?.firmware === 'uefi' ? 'uefi' : 'bios',
    memory_bytes: (m.vm?.mem_gb || 1) * 2 ** 30,
    cpus: m.vm?.cpu || 1,
  }
  const decides = JSON.stringify([options ?? null, configuration ?? null, machine])
  return {
    guest_info,
    guest_tools,
    fix: {
      key: createHash('sha256').update(decides).digest('hex'),
      ...(options ? { options } : {}),
      ...(configuration ? { configuration } : {}),
      unavailable: wanted?.required ? 'fail' : c.unavailable === 'fail' && wanted?.required !== false ? 'fail' : 'skip',
      machine,
    },
  }
}

/** How the configuration says that the tools of libguestfs are found and run. */
export function guestTools(config: unknown): GuestToolSettings {
  const c = section(section(config).fix)
  return {
    accelerator: (c.accelerator as GuestToolSettings['accelerator'] | undefined) ?? 'auto',
    ...texts(c, ['kernel', 'modules', 'appliance', 'virt_v2v_in_place', 'tmp_dir']),
  }
}

type Wanted = NonNullable<NonNullable<ConvertManifest['pipeline']>['fix']>
const OPTIONS = [
  'backup',
  'print_fstab',
  'update_grub',
  'regen_initramfs',
  'fstab_mode',
  'remove_vmware_tools',
] as const

function asked(w: Wanted): NonNullable<FixPlan['options']> {
  return Object.fromEntries(OPTIONS.filter((k) => w[k] !== undefined).map((k) => [k, w[k]]))
}

/** Settings that an administrator changed from what virt-v2v does anyway. */
function defaults(w: Wanted, c: Record<string, unknown>): NonNullable<FixPlan['options']> {
  return {
    ...(w.update_grub === undefined && c.update_grub === false ? { update_grub: false } : {}),
    ...(w.regen_initramfs === undefined && c.regen_initramfs === false ? { regen_initramfs: false } : {}),
    ...(w.fstab_mode === undefined && (c.fstab_mode === 'noop' || c.fstab_mode === 'bypath-only')
      ? { fstab_mode: c.fstab_mode }
      : {}),
  }
}

/** Undefined when nothing is to be configured. Every value was checked when the manifest was read. */
function guestConfiguration(c: NonNullable<ConvertManifest['configuration']>): GuestConfiguration | undefined {
  const h = typeof c.hostname === 'string' ? { name: c.hostname } : c.hostname
  const g: GuestConfiguration = {
    users: {
      create: (c.users?.create ?? []).map((u) => ({
        name: u.name,
        ...(u.uid === undefined ? {} : { uid: u.uid }),
        groups: u.groups ?? [],
        ssh_keys: u.ssh_keys ?? [],
        ...(u.sudo ? { sudo: u.sudo === true ? 'ALL=(ALL:ALL) NOPASSWD: ALL' : u.sudo } : {}),
      })),
      disable: c.users?.disable ?? [],
    },
    services: {
      enable: c.services?.enable ?? [],
      disable: c.services?.disable ?? [],
      mask: c.services?.mask ?? [],
    },
    ...(h?.name === undefined
      ? {}
      : { hostname: { name: h.name, ...('domain' in h && h.domain !== undefined ? { domain: h.domain } : {}) } }),
    hosts: Object.entries((h && 'hosts' in h ? h.hosts : undefined) ?? {}).map(([k, v]) =>
      isIP(k) === 0
        ? { address: String(v), names: [k] }
        : { address: k, names: typeof v === 'string' ? v.split(/ +/) : v },
    ),
    files: (c.network?.files ?? []).map((f) => {
      const { path, mode } = networkFileTypes[f.type]
      const priority = String(f.priority ?? 10).padStart(2, '0')
      return { path: path.replace('{p}', priority).replace('{n}', f.name), mode, content: f.content }
    }),
  }
  const lists = [
    g.users.create,
    g.users.disable,
    g.services.enable,
    g.services.disable,
    g.services.mask,
    g.hosts,
    g.files,
  ]
  return g.hostname || lists.some((l) => l.length > 0) ? g : undefined
}

function texts<K extends string>(c: Record<string, unknown>, keys: readonly K[]): Partial<Record<K, string>> {
  return Object.fromEntries(keys.filter((k) => typeof c[k] === 'string').map((k) => [k, c[k]])) as Partial<
    Record<K, string>
  >
}

function section(v: unknown): Record<string, unknown> {
  return typeof v === 'object' && v !== null ? (v as Record<string, unknown>) : {}
}
