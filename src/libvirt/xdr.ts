/*
 * XDR, the External Data Representation of RFC 4506, as far as libvirt uses it: big endian, everything in multiples of four bytes.
 * The caps are those of libvirt's remote_protocol.x; a longer value is an error on either side, before any memory is taken for it.
 */
import { XdrError } from './errors.ts'

/** REMOTE_STRING_MAX: bytes of one string, so of one domain XML */
export const STRING_MAX = 4_194_304
const padding = (length: number): number => (4 - (length % 4)) % 4

/** Grows as it is written. `reserved` bytes at the front are left for the frame's header. */
export class XdrWriter {
  private bytes: Buffer
  private at: number

  constructor(reserved = 0) {
    this.bytes = Buffer.allocUnsafe(Math.max(256, reserved))
    this.at = reserved
  }

  private room(length: number): void {
    if (this.at + length <= this.bytes.length) return
    const larger = Buffer.allocUnsafe(Math.max(this.bytes.length * 2, this.at + length))
    this.bytes.copy(larger, 0, 0, this.at)
    this.bytes = larger
  }

  uint(value: number): this {
    if (!Number.isInteger(value) || value < 0 || value > 0xffff_ffff) {
      throw new TypeError(`${value} is no unsigned 32-bit integer.`)
    }
    this.room(4)
    this.at = this.bytes.writeUInt32BE(value, this.at)
    return this
  }

  int(value: number): this {
    if (!Number.isInteger(value) || value < -0x8000_0000 || value > 0x7fff_ffff) {
      throw new TypeError(`${value} is no signed 32-bit integer.`)
    }
    this.room(4)
    this.at = this.bytes.writeInt32BE(value, this.at)
    return this
  }

  bool(value: boolean): this {
    return this.uint(value ? 1 : 0)
  }

  uhyper(value: bigint): this {
    if (value < 0n || value > 0xffff_ffff_ffff_ffffn) throw new TypeError(`${value} is no unsigned 64-bit integer.`)
    this.room(8)
    this.at = this.bytes.writeBigUInt64BE(value, this.at)
    return this
  }

  /** opaque data of a length that both sides know */
  fixed(data: Uint8Array): this {
    const pad = padding(data.length)
    this.room(data.length + pad)
    this.bytes.set(data, this.at)
    this.at += data.length
    this.bytes.fill(0, this.at, this.at + pad)
    this.at += pad
    return this
  }

  /** bytes without any length: what a stream carries */
  raw(data: Uint8Array): this {
    this.room(data.length)
    this.bytes.set(data, this.at)
    this.at += data.length
    return this
  }

  string(value: string): this {
    const length = Buffer.byteLength(value)
    if (length > STRING_MAX) {
      throw new TypeError(`A string of ${length} bytes is longer than the ${STRING_MAX} bytes that libvirt takes.`)
    }
    // C strings on the other side: what follows a NUL would silently not be there
    if (value.includes('\0')) throw new TypeError('A string for libvirt may hold no NUL character.')
    this.uint(length)
    const pad = padding(length)
    this.room(length + pad)
    this.bytes.write(value, this.at, 'utf8')
    this.at += length
    this.bytes.fill(0, this.at, this.at + pad)
    this.at += pad
    return this
  }

  /** a value that may be absent: a bool, then the value */
  optional<T>(value: T | null | undefined, write: (w: XdrWriter, value: T) => void): this {
    this.bool(value !== null && value !== undefined)
    if (value !== null && value !== undefined) write(this, value)
    return this
  }

  optionalString(value: string | null | undefined): this {
    return this.optional(value, (w, v) => w.string(v))
  }

  array<T>(values: readonly T[], max: number, write: (w: XdrWriter, value: T) => void): this {
    if (values.length > max) throw new TypeError(`libvirt takes at most ${max} of these, not ${values.length}.`)
    this.uint(values.length)
    for (const value of values) write(this, value)
    return this
  }

  /** What was written, including the reserved bytes. The writer is not used afterwards. */
  done(): Buffer {
    return this.bytes.subarray(0, this.at)
  }
}

/** Reads from `offset` on. Each method throws XdrError when the bytes are not there or not allowed. */
export class XdrReader {
  private readonly bytes: Buffer
  private at: number

  constructor(bytes: Buffer, offset = 0) {
    this.bytes = bytes
    this.at = offset
  }

  private take(length: number, what: string): number {
    const from = this.at
    if (length > this.bytes.length - from) {
      throw new XdrError(`The frame ends in the middle of ${what}: ${length} bytes are missing or cut off.`)
    }
    this.at += length
    return from
  }

  uint(): number {
    return this.bytes.readUInt32BE(this.take(4, 'an integer'))
  }

  int(): number {
    return this.bytes.readInt32BE(this.take(4, 'an integer'))
  }

  /** only 0 and 1 are allowed */
  bool(): boolean {
    const value = this.uint()
    if (value > 1) throw new XdrError(`A truth value is ${value}; only 0 and 1 are allowed.`)
    return value === 1
  }

  hyper(): bigint {
    return this.bytes.readBigInt64BE(this.take(8, 'a 64-bit integer'))
  }

  uhyper(): bigint {
    return this.bytes.readBigUInt64BE(this.take(8, 'a 64-bit integer'))
  }

  /** rounded to 53 bits of precision: exact up to 8 PiB, or 104 days in nanoseconds */
  uhyperNumber(): number {
    return Number(this.uhyper())
  }

  double(): number {
    return this.bytes.readDoubleBE(this.take(8, 'a floating point number'))
  }

  fixed(length: number): Buffer {
    const from = this.take(length + padding(length), 'fixed data')
    return this.bytes.subarray(from, from + length)
  }

  /** Bytes that are no UTF-8 become U+FFFD: one odd name must not hide all others. */
  string(): string {
    const length = this.uint()
    if (length > STRING_MAX) throw new XdrError(`A string has ${length} bytes; at most ${STRING_MAX} are allowed.`)
    const from = this.take(length + padding(length), 'a string')
    return this.bytes.toString('utf8', from, from + length)
  }

  optional<T>(read: (r: XdrReader) => T): T | null {
    return this.bool() ? read(this) : null
  }

  optionalString(): string | null {
    return this.optional((r) => r.string())
  }

  /** `least`: bytes that one element has at least, so that a count alone takes no memory */
  array<T>(max: number, least: number, read: (r: XdrReader) => T): T[] {
    const count = this.uint()
    if (count > max) throw new XdrError(`A list has ${count} elements; at most ${max} are allowed.`)
    if (count * least > this.bytes.length - this.at) {
      throw new XdrError(`A list of ${count} elements cannot fit into the ${this.bytes.length - this.at} bytes left.`)
    }
    const values: T[] = []
    for (let i = 0; i < count; i++) values.push(read(this))
    return values
  }

  /** Throws unless everything was read: what is left over means that the two sides do not speak of the same thing. */
  end(): void {
    const left = this.bytes.length - this.at
    if (left !== 0) throw new XdrError(`${left} bytes follow after the end of what was expected.`)
  }
}
