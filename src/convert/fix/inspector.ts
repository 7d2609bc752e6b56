import { XMLParser } from 'fast-xml-parser'
import { ImageError } from '../../images/index.ts'
import type { DiskCopy } from '../targets.ts'
import type { GuestInfo } from './types.ts'

/** `-a` arguments for finished copies, the boot disk first as the guest has it; formats stated, so that nothing is probed. */
export function addDisks(disks: readonly { path: string; format: string }[]): string[] {
  return disks.flatMap((d) => [`--format=${d.format}`, '-a', d.path])
}

/** One copy of each disk, in the manifest's order. */
export function onePerDisk(copies: readonly DiskCopy[]): DiskCopy[] {
  const seen = new Set<string>()
  return copies.filter((c) => !seen.has(c.disk.id) && seen.add(c.disk.id))
}

const parser = new XMLParser({
  ignoreAttributes: false,
  attributeNamePrefix: '@',
  parseTagValue: false,
  processEntities: true,
  isArray: (name) => ['operatingsystem', 'mountpoint'].includes(name),
})

/** Reads virt-inspector's XML: the first system on the disks. Source: virt-inspector(1). @throws {ImageError} no-guest */
export function guestInfoOf(xml: string): GuestInfo {
  const os = (parser.parse(xml) as { operatingsystems?: { operatingsystem?: Record<string, unknown>[] } | '' })
    .operatingsystems
  const first = (typeof os === 'object' ? os : undefined)?.operatingsystem?.[0]
  if (!first)
    throw new ImageError('virt-inspector found no system on the disks.', {
      code: 'no-guest',
      phase: 'guest-info',
    })
  const text = (k: string): string | undefined => {
    const v = first[k]
    return typeof v === 'string' && v !== '' ? v.slice(0, 500) : undefined
  }
  const mounts = (first.mountpoints as { mountpoint?: { '#text'?: string; '@dev'?: string }[] } | undefined)?.mountpoint
  const more: Partial<GuestInfo> = {
    arch: text('arch'),
    hostname: text('hostname'),
    package_format: text('package_format'),
    osinfo: text('osinfo'),
  }
  for (const k of Object.keys(more) as (keyof GuestInfo)[]) if (more[k] === undefined) delete more[k]
  return {
    type: text('name') ?? 'unknown',
    distro: text('distro') ?? 'unknown',
    product_name: text('product_name') ?? 'unknown',
    major_version: Number(text('major_version') ?? 0),
    minor_version: Number(text('minor_version') ?? 0),
    ...more,
    ...(mounts
      ? {
          mountpoints: mounts
            .slice(0, 100)
            .map((m) => ({ device: String(m['@dev'] ?? ''), path: String(m['#text'] ?? '') })),
        }
      : {}),
  }
}
