import { XMLParser } from 'fast-xml-parser'
import { FormatError } from './source.ts'

/** What a conversion needs of an OVF envelope. Source: DMTF DSP0243 (OVF 1.1, 2.x). */
interface OvfDisk {
  disk_id: string
  /** as written; MUST be checked before it is used as a file name */
  href: string
  /** bytes */
  capacity?: number
  compression?: string
}

export interface Ovf {
  name?: string
  disks: OvfDisk[]
}

export const MAX_OVF_BYTES = 4 * 1024 * 1024

type Node = Record<string, unknown>

/** Disks in the order in which the virtual hardware attaches them, others after. @throws {FormatError} bad-ovf */
export function parseOvf(text: string): Ovf {
  if (text.length > MAX_OVF_BYTES) throw bad(`has ${text.length} characters; at most ${MAX_OVF_BYTES} are read`)
  // an OVF needs no document type, and every entity attack begins with one
  if (/<!DOCTYPE|<!ENTITY/i.test(text)) throw bad('declares a document type or entities, which are not read')
  let root: Node
  try {
    root = new XMLParser({
      ignoreAttributes: false,
      attributeNamePrefix: '@',
      removeNSPrefix: true,
      parseTagValue: false,
      parseAttributeValue: false,
      processEntities: true, // the five of XML; there is no DTD that could define more
      maxNestedTags: 100,
    }).parse(text) as Node
  } catch (e) {
    throw bad(`cannot be read: ${(e as Error).message}`)
  }
  const envelope = one(root.Envelope)
  if (!envelope) throw bad('has no Envelope')
  const files = new Map<string, Node>()
  for (const f of all(one(envelope.References)?.File)) files.set(attribute(f, 'id'), f)
  const declared = new Map<string, OvfDisk>()
  for (const section of sections(envelope, 'DiskSection')) {
    for (const d of all(section.Disk)) {
      const fileRef = attribute(d, 'fileRef')
      if (fileRef === '') continue // an empty disk, made on deployment
      const file = files.get(fileRef)
      if (!file) throw bad(`names the file ${JSON.stringify(fileRef)} for a disk but does not list it`)
      if (attribute(d, 'parentRef') !== '')
        throw bad(`has a disk (${JSON.stringify(attribute(d, 'diskId'))}) that depends on a parent disk`)
      const capacity = bytesOf(attribute(d, 'capacity'), attribute(d, 'capacityAllocationUnits'))
      const compression = attribute(file, 'compression')
      const id = attribute(d, 'diskId')
      if (declared.has(id)) throw bad(`has two disks with the id ${JSON.stringify(id)}`)
      declared.set(id, {
        disk_id: id,
        href: attribute(file, 'href'),
        ...(capacity === undefined ? {} : { capacity }),
        ...(compression === '' ? {} : { compression }),
      })
    }
  }
  if (declared.size === 0) throw bad('lists no disk with content')
  const system = one(envelope.VirtualSystem) ?? one(one(envelope.VirtualSystemCollection)?.VirtualSystem)
  const ordered: OvfDisk[] = []
  for (const id of attached(system)) {
    const disk = declared.get(id)
    if (disk) ordered.push(disk)
    declared.delete(id)
  }
  const name = textOf(system?.Name) || attribute(system ?? {}, 'id')
  return { ...(name === '' ? {} : { name }), disks: [...ordered, ...declared.values()] }
}

/** Disk ids in the order controller address, place on the controller. */
function attached(system: Node | undefined): string[] {
  const items = all(one(system?.VirtualHardwareSection)?.Item).concat(
    all(one(system?.VirtualHardwareSection)?.StorageItem),
  )
  const controllers = new Map(items.map((i) => [textOf(i.InstanceID), i]))
  const out: { id: string; controller: number; place: number; seen: number }[] = []
  for (const [seen, item] of items.entries()) {
    const m = /^(?:ovf:)?\/disk\/(.+)$/.exec(textOf(all(item.HostResource)[0] ?? item.HostResource))
    if (!m) continue
    const parent = controllers.get(textOf(item.Parent))
    // SCSI, SATA and NVMe controllers come in the order listed; IDE ones by address
    const controller = parent ? items.indexOf(parent) : Number.MAX_SAFE_INTEGER
    out.push({ id: m[1]!, controller, place: Number(textOf(item.AddressOnParent)) || 0, seen })
  }
  out.sort((a, b) => a.controller - b.controller || a.place - b.place || a.seen - b.seen)
  return out.map((o) => o.id)
}

/** "10" with units "byte * 2^30" is 10 GiB. Undefined when it is a reference or unreadable. */
function bytesOf(capacity: string, units: string): number | undefined {
  if (!/^\d{1,16}$/.test(capacity)) return undefined
  const u = units.trim()
  const m = u === '' || u === 'byte' ? ['', '2', '0'] : /^byte\s*\*\s*(\d{1,4})\s*\^\s*(\d{1,2})$/.exec(u)
  const old = { KiloBytes: 2 ** 10, MegaBytes: 2 ** 20, GigaBytes: 2 ** 30 }[u]
  const factor =
    old ?? (m ? Number(m[1]) ** Number(m[2]) : Number(/^byte\s*\*\s*(\d{1,12})$/.exec(u)?.[1] ?? Number.NaN))
  const n = u === '' || u === 'byte' ? Number(capacity) : Number(capacity) * factor
  return Number.isSafeInteger(n) ? n : undefined
}

function sections(envelope: Node, name: string): Node[] {
  const direct = all(envelope[name])
  // OVF 0.9 wrote <Section xsi:type="ovf:DiskSection_Type">
  return direct.concat(all(envelope.Section).filter((s) => attribute(s, 'type').includes(name)))
}

function all(v: unknown): Node[] {
  return (Array.isArray(v) ? v : v === undefined ? [] : [v]).filter(
    (x): x is Node => typeof x === 'object' && x !== null,
  )
}

function one(v: unknown): Node | undefined {
  return all(v)[0]
}

function attribute(n: Node, name: string): string {
  const v = n[`@${name}`]
  return typeof v === 'string' ? v : ''
}

function textOf(v: unknown): string {
  const x = Array.isArray(v) ? v[0] : v
  if (typeof x === 'string') return x.trim()
  if (typeof x === 'object' && x !== null && typeof (x as Node)['#text'] === 'string')
    return ((x as Node)['#text'] as string).trim()
  return ''
}

function bad(what: string): FormatError {
  return new FormatError('bad-ovf', `The OVF ${what}.`)
}

/** One line of an OVF manifest (.mf): "SHA256(disk1.vmdk)= 0123…". Source: DSP0243 5.1. */
export interface Digest {
  algorithm: 'sha1' | 'sha256' | 'sha512'
  hex: string
}

const LENGTHS = { sha1: 40, sha256: 64, sha512: 128 } as const

/** @throws {FormatError} bad-ovf for a line that is none */
export function parseMf(text: string): Map<string, Digest> {
  const out = new Map<string, Digest>()
  for (const raw of text.split(/\r\n|\n|\r/)) {
    const line = raw.trim()
    if (line === '') continue
    const m = /^(SHA-?1|SHA-?256|SHA-?512)\s*\((.+)\)\s*=\s*([0-9a-fA-F]+)$/i.exec(line)
    const algorithm = (m?.[1] ?? '').toLowerCase().replace('-', '') as Digest['algorithm']
    if (!m || m[3]!.length !== LENGTHS[algorithm])
      throw new FormatError(
        'bad-ovf',
        `The OVF's manifest (.mf) has a line that cannot be read: ${JSON.stringify(line.slice(0, 120))}.`,
      )
    out.set(m[2]!, { algorithm, hex: m[3]!.toLowerCase() })
  }
  return out
}
