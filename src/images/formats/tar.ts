import { type ByteSource, FormatError } from './source.ts'

/**
 * Lists a tar without unpacking it. Sources: POSIX pax (ustar and extended headers), the GNU tar manual (long names, base-256
 * numbers). Offsets and sizes are bytes; offsets are multiples of 512.
 */
export interface TarMember {
  name: string
  offset: number
  size: number
  type: 'file' | 'folder' | 'other'
}

const BLOCK = 512
/** An OVA holds a descriptor, a manifest, a certificate and a handful of disks. */
const MAX_MEMBERS = 10_000
/** Extended headers: each member has one or two. */
const MAX_EXTENSIONS = 2 * MAX_MEMBERS
const MAX_EXTENDED = 1024 * 1024

/** @throws {FormatError} not-tar, truncated, bad-archive */
export async function listTar(source: ByteSource): Promise<TarMember[]> {
  const members: TarMember[] = []
  let at = 0
  let pax: Map<string, string> = new Map()
  let longName: string | undefined
  let extensions = 0
  while (at + BLOCK <= source.size) {
    const head = await source.read(at, BLOCK)
    if (head.length < BLOCK || head.every((b) => b === 0)) break
    if (!checksumOk(head)) {
      if (members.length === 0 && at === 0) throw new FormatError('not-tar', 'The file is no tar archive.')
      throw new FormatError('bad-archive', `The tar header at byte ${at} has a wrong checksum: the archive is damaged.`)
    }
    const type = String.fromCharCode(head[156]!)
    const size =
      pax.has('size') && !'xgLK'.includes(type) ? decimal(pax.get('size')!, at) : number(head.subarray(124, 136), at)
    const data = at + BLOCK
    if (data + size > source.size) {
      throw new FormatError(
        'truncated',
        `A member of the archive ends at byte ${data + size}, but the file has ${source.size} bytes: it is cut off or still being written.`,
      )
    }
    const next = data + Math.ceil(size / BLOCK) * BLOCK
    if (type === 'x' || type === 'L' || type === 'g' || type === 'K') {
      if (++extensions > MAX_EXTENSIONS)
        throw new FormatError('bad-archive', `The archive has more than ${MAX_EXTENSIONS} extended headers.`)
      if (size > MAX_EXTENDED)
        throw new FormatError(
          'bad-archive',
          `An extended header of the archive has ${size} bytes; at most ${MAX_EXTENDED} are read.`,
        )
      const body = await source.read(data, size)
      if (type === 'x') pax = paxRecords(body)
      if (type === 'L') longName = cString(body)
      at = next
      continue
    }
    if ('SMDVN'.includes(type) || pax.has('GNU.sparse.major') || pax.has('GNU.sparse.map')) {
      throw new FormatError(
        'bad-archive',
        `The archive's member at byte ${at} is stored sparse or in parts (type ${JSON.stringify(type)}), which no OVA is. Pack it again without --sparse.`,
      )
    }
    const name = pax.get('path') ?? longName ?? headerName(head)
    // tools disagree on whether such content is there, so what follows could be read in two ways
    if (size > 0 && '123456'.includes(type))
      throw new FormatError(
        'bad-archive',
        `The archive's member ${JSON.stringify(name)} is a link, a folder or a device (type ${type}), but states a content of ${size} bytes.`,
      )
    members.push({
      name,
      offset: data,
      size,
      type: kindOf(type, name),
    })
    if (members.length > MAX_MEMBERS)
      throw new FormatError('bad-archive', `The archive has more than ${MAX_MEMBERS} members.`)
    pax = new Map()
    longName = undefined
    at = next
  }
  if (members.length === 0) throw new FormatError('not-tar', 'The file is no tar archive, or an empty one.')
  return members
}

function kindOf(type: string, name: string): TarMember['type'] {
  // before there was a type for folders their names ended so
  if (type === '5' || (type === '\0' && name.endsWith('/'))) return 'folder'
  return type === '0' || type === '\0' || type === '7' ? 'file' : 'other'
}

function headerName(h: Buffer): string {
  const name = cString(h.subarray(0, 100))
  // only POSIX ustar has a prefix; GNU tar ("ustar  ") keeps times there
  const prefix = h.toString('latin1', 257, 263) === 'ustar\0' ? cString(h.subarray(345, 500)) : ''
  return prefix === '' ? name : `${prefix}/${name}`
}

function cString(b: Buffer): string {
  const end = b.indexOf(0)
  return b.toString('utf8', 0, end < 0 ? b.length : end)
}

/** Octal text, or base-256 when the first bit is set. */
function number(field: Buffer, at: number): number {
  if ((field[0]! & 0x80) !== 0) {
    let n = BigInt(field[0]! & 0x7f)
    for (const b of field.subarray(1)) n = (n << 8n) | BigInt(b)
    if ((field[0]! & 0x40) !== 0 || n > BigInt(Number.MAX_SAFE_INTEGER)) throw badSize(at)
    return Number(n)
  }
  const text = cString(field).trim()
  if (text === '') return 0
  if (!/^[0-7]+$/.test(text)) throw badSize(at)
  return Number.parseInt(text, 8)
}

function decimal(text: string, at: number): number {
  if (!/^\d{1,16}$/.test(text) || !Number.isSafeInteger(Number(text))) throw badSize(at)
  return Number(text)
}

function badSize(at: number): FormatError {
  return new FormatError('bad-archive', `The tar header at byte ${at} has a size that cannot be read.`)
}

/** The sum of all bytes with the checksum field as spaces; old writers summed signed bytes. */
function checksumOk(h: Buffer): boolean {
  let unsigned = 0
  let signed = 0
  for (let i = 0; i < BLOCK; i++) {
    const b = i >= 148 && i < 156 ? 32 : h[i]!
    unsigned += b
    signed += b > 127 ? b - 256 : b
  }
  const stored = Number.parseInt(cString(h.subarray(148, 156)).trim(), 8)
  return stored === unsigned || stored === signed
}

/** Records "<length> <key>=<value>\n", the length counting itself. */
function paxRecords(body: Buffer): Map<string, string> {
  const out = new Map<string, string>()
  let at = 0
  while (at < body.length && body[at] !== 0) {
    const space = body.indexOf(0x20, at)
    const length = space < 0 ? Number.NaN : Number(body.toString('latin1', at, space))
    if (!Number.isInteger(length) || length < space - at + 3 || at + length > body.length) {
      throw new FormatError('bad-archive', 'An extended header of the archive cannot be read.')
    }
    const record = body.toString('utf8', space + 1, at + length - 1)
    const eq = record.indexOf('=')
    if (eq > 0) out.set(record.slice(0, eq), record.slice(eq + 1))
    at += length
  }
  return out
}
