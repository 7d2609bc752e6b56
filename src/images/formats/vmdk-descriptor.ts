import { FormatError } from './source.ts'

/** One line of the extent description. Source: VMware "Virtual Disk Format 5.0". */
export interface VmdkExtent {
  access: 'RW' | 'RDONLY' | 'NOACCESS'
  sectors: number
  type: string
  file?: string
  /** flat extents: first sector inside the file */
  offset_sectors: number
}

export interface VmdkDescriptor {
  create_type: string
  cid: string
  parent_cid: string
  parent_hint?: string
  extents: VmdkExtent[]
}

/** More extents than a 64 TiB disk has in pieces of 2 GB are no disk but an attack on our file table. */
const MAX_EXTENTS = 4096
export const MAX_DESCRIPTOR_BYTES = 1024 * 1024
const MAX_SECTORS = 2 ** 44

const EXTENT = /^(RW|RDONLY|NOACCESS)[ \t]+(\d{1,16})[ \t]+([A-Za-z0-9]+)(?:[ \t]+"([^"]*)"(?:[ \t]+(\d{1,16}))?.*)?$/
const SETTING = /^([A-Za-z][\w.-]*)[ \t]*=[ \t]*(.*)$/

/** Parses a descriptor's text, embedded or on its own. @throws {FormatError} */
export function parseVmdkDescriptor(text: string): VmdkDescriptor {
  const settings = new Map<string, string>()
  const extents: VmdkExtent[] = []
  const end = text.indexOf('\0')
  for (const raw of (end < 0 ? text : text.slice(0, end)).split(/\r\n|\n|\r/)) {
    const line = raw.trim()
    if (line === '' || line.startsWith('#')) continue
    if (/^(RW|RDONLY|NOACCESS)[ \t]/.test(line)) {
      const m = EXTENT.exec(line)
      if (!m)
        throw new FormatError(
          'bad-descriptor',
          `The VMDK descriptor has an extent line that cannot be read: ${quote(line)}.`,
        )
      if (extents.length >= MAX_EXTENTS)
        throw new FormatError('bad-descriptor', `The VMDK descriptor has more than ${MAX_EXTENTS} extents.`)
      const sectors = Number(m[2])
      const offset = Number(m[5] ?? 0)
      if (sectors > MAX_SECTORS || offset > MAX_SECTORS) {
        throw new FormatError('absurd-size', `The VMDK descriptor has an extent beyond any real disk: ${quote(line)}.`)
      }
      extents.push({
        access: m[1] as VmdkExtent['access'],
        sectors,
        type: m[3]!.toUpperCase(),
        ...(m[4] === undefined ? {} : { file: m[4] }),
        offset_sectors: offset,
      })
      continue
    }
    const m = SETTING.exec(line)
    if (m) settings.set(m[1]!.toLowerCase(), m[2]!.replace(/^"|"$/g, ''))
  }
  const parent = settings.get('parentfilenamehint')
  return {
    create_type: settings.get('createtype') ?? '',
    cid: settings.get('cid') ?? '',
    parent_cid: (settings.get('parentcid') ?? 'ffffffff').toLowerCase(),
    ...(parent === undefined ? {} : { parent_hint: parent }),
    extents,
  }
}

function quote(line: string): string {
  return JSON.stringify(line.length > 120 ? `${line.slice(0, 120)}…` : line)
}
