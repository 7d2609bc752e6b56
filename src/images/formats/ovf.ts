import { XMLParser, XMLValidator } from 'fast-xml-parser'
import { type Attachment, attachments, readHardware } from './ovf-hardware.ts'
import type { Ovf, OvfController, OvfDisk } from './ovf-types.ts'
import { all, attribute, bad, bytesOf, type Node, one, sections, textOf } from './ovf-xml.ts'

/** The largest known, with their licence texts in many languages, have half a megabyte. */
export const MAX_OVF_BYTES = 2 * 1024 * 1024
/** More than any hypervisor attaches. Each costs a few calls of qemu-img, and a line of XML is cheap. */
const MAX_DISKS = 1024

/** Disks in the order in which the virtual hardware attaches them, others after. @throws {FormatError} bad-ovf */
export function parseOvf(text: string): Ovf {
  const envelope = readEnvelope(text)
  const { declared, empty } = readDisks(envelope)
  if (declared.size === 0) throw bad('lists no disk with content')
  const system = virtualSystem(envelope)
  const attached = attachments(system, envelope)
  const disks: OvfDisk[] = []
  for (const a of attached) {
    const found = diskOf(declared, a)
    if (!found) continue
    declared.delete(found.id)
    disks.push({
      ...found.disk,
      ...(a.controller ? { controller: a.controller } : {}),
      ...(a.unit === undefined ? {} : { unit: a.unit }),
      ...(a.boot_order === undefined ? {} : { boot_order: a.boot_order }),
    })
  }
  for (const { disk } of declared.values()) disks.push(disk)
  // a stable sort: without any stated order the hardware's stands
  disks.sort((a, b) => (a.boot_order ?? 1e9) - (b.boot_order ?? 1e9))
  const name = textOf(system?.Name) || attribute(system ?? {}, 'id')
  return {
    ...(name === '' ? {} : { name }),
    disks,
    ...(empty.length === 0 ? {} : { empty_disks: empty }),
    ...readHardware(system, envelope),
  }
}

function checkLength(text: string): void {
  if (text.length > MAX_OVF_BYTES) throw bad(`has ${text.length} characters; at most ${MAX_OVF_BYTES} are read`)
}

function readEnvelope(written: string): Node {
  checkLength(written)
  // some exporters write names as they are: "R&D"
  const text = written
    .replace(/^\uFEFF/, '')
    .replace(/&(?!(?:amp|lt|gt|quot|apos|#\d{1,7}|#x[0-9a-f]{1,6});)/gi, '&amp;')
  checkLength(text)
  // an OVF needs no document type, and every entity attack begins with one
  if (/<!DOCTYPE|<!ENTITY/i.test(text)) throw bad('declares a document type or entities, which are not read')
  // the reader takes what was cut off for an OVF with fewer disks
  const valid = XMLValidator.validate(text, { allowBooleanAttributes: true })
  if (valid !== true) throw bad(`is not valid XML at line ${valid.err.line}: ${short(valid.err.msg)}`)
  let root: Node
  try {
    root = new XMLParser({
      ignoreAttributes: false,
      attributeNamePrefix: '@',
      removeNSPrefix: true,
      parseTagValue: false,
      parseAttributeValue: false,
      processEntities: true, // the five of XML; there is no DTD that could define more
      htmlEntities: true, // and numeric ones: &#252;
      maxNestedTags: 100,
    }).parse(text) as Node
  } catch (e) {
    throw bad(`cannot be read: ${short((e as Error).message)}`)
  }
  const envelope = one(root.Envelope)
  if (!envelope) throw bad('has no Envelope')
  return envelope
}

/** The reader's own words, which may quote the whole file. */
function short(message: string): string {
  const line = message.replace(/\s+/g, ' ').replace(/\.$/, '')
  return line.length > 160 ? `${line.slice(0, 160)}…` : line
}

/** The one VM. `<Content xsi:type="ovf:VirtualSystem_Type">` is OVF 0.9's and oVirt's name for it. */
function virtualSystem(envelope: Node): Node | undefined {
  const systems: Node[] = []
  const walk = (n: Node, depth: number): void => {
    systems.push(...all(n.VirtualSystem), ...all(n.Content).filter((c) => !attribute(c, 'type').includes('Collection')))
    if (depth < 20) for (const c of all(n.VirtualSystemCollection)) walk(c, depth + 1)
  }
  walk(envelope, 0)
  if (systems.length > 1) throw bad(`describes ${systems.length} virtual machines; export each one by itself`)
  return systems[0]
}

interface Declared {
  id: string
  file_ref: string
  disk: OvfDisk
}

function readDisks(envelope: Node): { declared: Map<string, Declared>; empty: string[] } {
  const files = new Map<string, Node>()
  for (const f of all(one(envelope.References)?.File)) {
    const id = attribute(f, 'id')
    if (id !== '' && files.has(id)) throw bad(`has two files with the id ${JSON.stringify(id)}`)
    files.set(id, f)
  }
  const declared = new Map<string, Declared>()
  const empty: string[] = []
  for (const d of sections(envelope, 'DiskSection').flatMap((s) => all(s.Disk))) {
    const id = attribute(d, 'diskId')
    const fileRef = attribute(d, 'fileRef')
    if (fileRef === '') {
      empty.push(id)
      continue
    }
    const file = files.get(fileRef)
    if (!file) throw bad(`names the file ${JSON.stringify(fileRef)} for a disk but does not list it`)
    if (attribute(d, 'parentRef') !== '') throw bad(`has a disk (${JSON.stringify(id)}) that depends on a parent disk`)
    if (declared.size >= MAX_DISKS) throw bad(`lists more than ${MAX_DISKS} disks`)
    if (declared.has(id)) throw bad(`has two disks with the id ${JSON.stringify(id)}`)
    declared.set(id, { id, file_ref: fileRef, disk: readDisk(id, d, file) })
  }
  return { declared, empty }
}

function readDisk(id: string, d: Node, file: Node): OvfDisk {
  const stated = attribute(d, 'capacity')
  // oVirt's export domains write a size in GiB instead
  const capacity =
    stated === ''
      ? bytesOf(attribute(d, 'size'), 'GigaBytes')
      : bytesOf(stated, attribute(d, 'capacityAllocationUnits'))
  const compression = attribute(file, 'compression')
  const chunk = attribute(file, 'chunkSize')
  const format = formatOf(d)
  const bus = INTERFACES[attribute(d, 'disk-interface').toLowerCase()]
  return {
    disk_id: id,
    href: attribute(file, 'href'),
    ...(capacity === undefined ? {} : { capacity }),
    ...(compression === '' ? {} : { compression }),
    ...(/^\d{1,15}$/.test(chunk) ? { chunk_size: Number(chunk) } : {}),
    ...(format === undefined ? {} : { format }),
    ...(bus ? { controller: { ...bus, index: 0 } } : {}),
    ...(attribute(d, 'boot').toLowerCase() === 'true' ? { boot_order: 1 } : {}),
  }
}

/** oVirt writes the bus beside the disk. */
const INTERFACES: Record<string, Omit<OvfController, 'index'> | undefined> = {
  ide: { bus: 'ide' },
  sata: { bus: 'sata' },
  virtio: { bus: 'virtio' },
  virtio_scsi: { bus: 'scsi', model: 'VirtIO_SCSI' },
}

function formatOf(d: Node): OvfDisk['format'] {
  // oVirt gives raw volumes the URI of VMDK, and says what they are here
  const volume = attribute(d, 'volume-format').toUpperCase()
  if (volume === 'COW') return 'qcow2'
  if (volume === 'RAW') return 'raw'
  const uri = attribute(d, 'format').toLowerCase()
  if (uri.includes('vmdk')) return 'vmdk'
  if (uri.includes('qcow')) return 'qcow2'
  if (uri.includes('vhdx')) return 'vhdx'
  if (uri.includes('vhd')) return 'vhd'
  if (uri.includes('vdi')) return 'vdi'
  return undefined
}

/** What a drive's HostResource names: "ovf:/disk/<disk id>", or in oVirt "<group>/<image>". */
function diskOf(declared: Map<string, Declared>, a: Attachment): Declared | undefined {
  const id = /^(?:ovf:)?\/disk\/(.+)$/.exec(a.resource)?.[1]
  if (id !== undefined) return declared.get(id)
  const tail = a.resource.split('/').at(-1)!
  return declared.get(tail) ?? [...declared.values()].find((d) => d.file_ref === a.resource)
}
