/**
 * Archives and OVFs as other tools write them, and as none should: tar headers of every dialect byte by byte.
 * Source: POSIX pax, the GNU tar manual, DMTF DSP0243.
 */
import { createHash } from 'node:crypto'
import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs'

const BLOCK = 512

/** Bytes, or a few bytes within a large file that is otherwise a hole. */
export type Content = Buffer | { size: number; parts: readonly { at: number; bytes: Buffer }[] }

export interface TarEntry {
  name: string
  content: Content
  /** default '0', a file */
  type?: string
  link?: string
  /** size that the header states, whatever follows */
  claims?: number
  /** bytes that stand in the size field as they are */
  size_field?: Buffer
}

/** `gnu`: base-256 sizes and long names as members of type L; `pax`: both in extended headers; `ustar`: octal and the prefix field */
export type TarDialect = 'ustar' | 'gnu' | 'pax'

export interface TarShape {
  dialect?: TarDialect
  /** GNU: sizes in base-256 even where octal would do; pax: every size in a record */
  always_extend?: boolean
  /** blocks of zeros at the end, default 2 */
  end_blocks?: number
  /** whatever lies behind the end */
  junk?: Buffer
}

type Sink = (bytes: Buffer, at: number) => void

export function makeTar(entries: readonly TarEntry[], o: TarShape = {}): Buffer {
  const pieces: { bytes: Buffer; at: number }[] = []
  const size = build(entries, o, (bytes, at) => pieces.push({ bytes, at }))
  const out = Buffer.alloc(size)
  for (const p of pieces) p.bytes.copy(out, p.at)
  return out
}

/** Writes a file that may be larger than memory. Gives its size in bytes. */
export function writeTar(path: string, entries: readonly TarEntry[], o: TarShape = {}): number {
  const fd = openSync(path, 'w')
  try {
    const size = build(entries, o, (bytes, at) => writeSync(fd, bytes, 0, bytes.length, at))
    ftruncateSync(fd, size)
    return size
  } finally {
    closeSync(fd)
  }
}

function build(entries: readonly TarEntry[], o: TarShape, write: Sink): number {
  let at = 0
  const put = (bytes: Buffer): void => {
    write(bytes, at)
    at += Math.ceil(bytes.length / BLOCK) * BLOCK
  }
  for (const e of entries) {
    const size = e.claims ?? sizeOf(e.content)
    for (const b of extensions(e, size, o)) put(b)
    put(tarHeader(e, size, o))
    if (Buffer.isBuffer(e.content)) put(e.content)
    else {
      for (const p of e.content.parts) write(p.bytes, at + p.at)
      at += Math.ceil(e.content.size / BLOCK) * BLOCK
    }
  }
  at += (o.end_blocks ?? 2) * BLOCK
  if (o.junk) {
    write(o.junk, at)
    at += o.junk.length
  }
  return at
}

function sizeOf(c: Content): number {
  return Buffer.isBuffer(c) ? c.length : c.size
}

/** Members that stand in front of one whose name or size does not fit its header. */
function extensions(e: TarEntry, size: number, o: TarShape): Buffer[] {
  const long = Buffer.byteLength(e.name) > 100
  if (o.dialect === 'gnu' && long) {
    const body = Buffer.from(`${e.name}\0`)
    return [tarHeader({ name: '././@LongLink', type: 'L', content: body }, body.length, o), body]
  }
  if (o.dialect !== 'pax') return []
  const records: [string, string][] = []
  if (long || !/^[\x20-\x7e]*$/.test(e.name)) records.push(['path', e.name])
  if (o.always_extend || size >= 8 ** 11) records.push(['size', String(size)])
  if (records.length === 0) return []
  const body = Buffer.concat(records.map(([k, v]) => paxRecord(k, v)))
  return [tarHeader({ name: 'PaxHeaders/x', type: 'x', content: body }, body.length, {}), body]
}

/** "<length> <key>=<value>\n", the length counting itself. */
export function paxRecord(key: string, value: string): Buffer {
  const rest = Buffer.byteLength(` ${key}=${value}\n`)
  let length = rest + 1
  while (String(length).length + rest !== length) length = String(length).length + rest
  return Buffer.from(`${length} ${key}=${value}\n`)
}

/** One block of header with a right checksum. */
export function tarHeader(e: TarEntry, size: number, o: TarShape): Buffer {
  const h = Buffer.alloc(BLOCK)
  const name = Buffer.from(e.name)
  const cut = name.length > 100 && (o.dialect ?? 'ustar') === 'ustar' ? e.name.lastIndexOf('/', 155) : -1
  name.copy(h, 0, cut + 1, cut + 101)
  h.write('0000644\0', 100, 'latin1')
  h.write('0000000\0', 108, 'latin1')
  h.write('0000000\0', 116, 'latin1')
  if (e.size_field) e.size_field.copy(h, 124, 0, 12)
  else if (o.dialect === 'gnu' && (o.always_extend || size >= 8 ** 11)) {
    h[124] = 0x80
    h.writeBigUInt64BE(BigInt(size), 128)
  } else h.write(size >= 8 ** 11 ? '00000000000\0' : `${size.toString(8).padStart(11, '0')}\0`, 124, 'latin1')
  h.write('00000000000\0', 136, 'latin1')
  h.write(e.type ?? '0', 156, 'latin1')
  if (e.link) h.write(e.link, 157)
  h.write(o.dialect === 'gnu' ? 'ustar  \0' : 'ustar\x0000', 257, 'latin1')
  if (cut >= 0) name.copy(h, 345, 0, cut)
  h.fill(' ', 148, 156)
  const sum = h.reduce((n, b) => n + b, 0)
  h.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
  return h
}

export interface OvfDiskShape {
  /** as it stands in the OVF */
  href: string
  capacity_bytes: number
  compression?: string
  chunk_size?: number
  /** place on the controller; default the order listed */
  unit?: number
}

/** An OVF as VirtualBox would write it, for one SATA controller. */
export function makeOvf(disks: readonly OvfDiskShape[], o: { name?: string; more?: string } = {}): string {
  const extra = (d: OvfDiskShape) =>
    `${d.compression === undefined ? '' : ` ovf:compression="${d.compression}"`}${d.chunk_size === undefined ? '' : ` ovf:chunkSize="${d.chunk_size}"`}`
  return `<?xml version="1.0"?>
<Envelope ovf:version="1.0" xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
<References>${disks.map((d, n) => `<File ovf:id="file${n}" ovf:href="${d.href}"${extra(d)}/>`).join('')}</References>
<DiskSection><Info/>${disks.map((d, n) => `<Disk ovf:diskId="vmdisk${n}" ovf:fileRef="file${n}" ovf:capacity="${d.capacity_bytes}"/>`).join('')}</DiskSection>
<VirtualSystem ovf:id="vm"><Info/><Name>${o.name ?? 'vm'}</Name><VirtualHardwareSection><Info/>
<Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
<Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>512</rasd:VirtualQuantity></Item>
<Item><rasd:Address>0</rasd:Address><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceSubType>AHCI</rasd:ResourceSubType><rasd:ResourceType>20</rasd:ResourceType></Item>
${disks.map((d, n) => `<Item><rasd:AddressOnParent>${d.unit ?? n}</rasd:AddressOnParent><rasd:HostResource>/disk/vmdisk${n}</rasd:HostResource><rasd:InstanceID>${10 + n}</rasd:InstanceID><rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>`).join('\n')}
</VirtualHardwareSection>${o.more ?? ''}</VirtualSystem></Envelope>
`
}

/** A manifest's lines. */
export function makeMf(files: readonly TarEntry[], algorithm: string): string {
  return files
    .map((f) => {
      const hash = createHash(algorithm.toLowerCase().replace('-', ''))
      return `${algorithm}(${f.name.replace(/^\.\//, '')})= ${hash.update(f.content as Buffer).digest('hex')}\n`
    })
    .join('')
}

export interface OvaShape extends TarShape {
  disks: readonly (Omit<OvfDiskShape, 'href'> & { name: string; bytes: Buffer })[]
  /** e.g. SHA256; none without it */
  mf?: string
  /** lines behind those */
  mf_more?: string
  /** names in their order in the archive; default vm.ovf, vm.mf, the disks */
  order?: readonly string[]
  /** in front of each member's name, e.g. "./" */
  prefix?: string
  /** members beside those */
  more?: readonly TarEntry[]
}

/** A whole OVA in memory. */
export function makeOva(o: OvaShape): Buffer {
  const disks = o.disks.map((d) => ({ name: d.name, content: d.bytes }))
  const ovf = { name: 'vm.ovf', content: Buffer.from(makeOvf(o.disks.map((d) => ({ ...d, href: d.name })))) }
  const files = [ovf, ...disks]
  if (o.mf) files.splice(1, 0, { name: 'vm.mf', content: Buffer.from(makeMf(files, o.mf) + (o.mf_more ?? '')) })
  const members: TarEntry[] = [...files, ...(o.more ?? [])]
  const ordered = o.order ? o.order.map((n) => members.find((m) => m.name === n)!) : members
  return makeTar(
    ordered.map((m) => ({ ...m, name: (o.prefix ?? '') + m.name })),
    o,
  )
}
