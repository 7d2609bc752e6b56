/** Structures that several procedures share. Source: remote_protocol.x. */
import { XdrError } from './errors.ts'
import type { XdrReader, XdrWriter } from './xdr.ts'

/** A domain as libvirt names it in every call. libvirt finds it by its uuid; the name is what its messages show. */
export interface Domain {
  name: string
  /** lower case, with dashes */
  uuid: string
  /** of this run; -1 when it does not run */
  id: number
}
export interface Network {
  name: string
  uuid: string
}
export interface Pool {
  name: string
  uuid: string
}
export interface Volume {
  pool: string
  name: string
  /** unique on the host; for files their path */
  key: string
}

const UUID = /^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$/i

export function writeUuid(w: XdrWriter, uuid: string): void {
  if (!UUID.test(uuid)) throw new TypeError(`${JSON.stringify(uuid)} is no UUID.`)
  w.fixed(Buffer.from(uuid.replaceAll('-', ''), 'hex'))
}

function readUuid(r: XdrReader): string {
  const hex = r.fixed(16).toString('hex')
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`
}

export function writeDomain(w: XdrWriter, d: Domain): void {
  w.string(d.name)
  writeUuid(w, d.uuid)
  w.int(d.id)
}
export const readDomain = (r: XdrReader): Domain => ({ name: r.string(), uuid: readUuid(r), id: r.int() })

/** networks and storage pools look alike */
export function writeNamed(w: XdrWriter, n: Network | Pool): void {
  w.string(n.name)
  writeUuid(w, n.uuid)
}
export const readNamed = (r: XdrReader): { name: string; uuid: string } => ({ name: r.string(), uuid: readUuid(r) })

export function writeVolume(w: XdrWriter, v: Volume): void {
  w.string(v.pool).string(v.name).string(v.key)
}
export const readVolume = (r: XdrReader): Volume => ({ pool: r.string(), name: r.string(), key: r.string() })

/** bytes that one of them takes at least */
export const DOMAIN_LEAST = 24
export const NAMED_LEAST = 20
export const VOLUME_LEAST = 12
/** REMOTE_DOMAIN_LIST_MAX and its sisters for networks, pools, volumes */
export const LIST_MAX = 16_384

export type ParameterValue = number | boolean | string

/** A typed parameter (virTypedParameter). 64-bit integers are rounded to 53 bits of precision. */
export function readParameter(r: XdrReader): [name: string, value: ParameterValue] {
  const name = r.string()
  const type = r.int()
  switch (type) {
    case 1:
      return [name, r.int()]
    case 2:
      return [name, r.uint()]
    case 3:
      return [name, Number(r.hyper())]
    case 4:
      return [name, r.uhyperNumber()]
    case 5:
      return [name, r.double()]
    case 6:
      return [name, r.int() !== 0]
    case 7:
      return [name, r.string()]
    default:
      throw new XdrError(`The parameter ${JSON.stringify(name)} has type ${type}; 1 to 7 are known.`)
  }
}

export interface RemoteError {
  code: number
  domain: number
  message: string | null
  level: number
}

/** remote_error: what a reply with status "error" carries. The rest of it repeats parts of the message, or is unused. */
export function readRemoteError(r: XdrReader): RemoteError {
  const error = { code: r.int(), domain: r.int(), message: r.optionalString(), level: r.int() }
  r.optional(readDomain)
  for (let i = 0; i < 3; i++) r.optionalString()
  r.int()
  r.int()
  r.optional(readNamed)
  return error
}
