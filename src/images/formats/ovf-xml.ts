import { FormatError } from './source.ts'

/** Helpers over the objects that the XML reader makes: an element is an object, an attribute a key with "@", namespaces are gone. */
export type Node = Record<string, unknown>

export function all(v: unknown): Node[] {
  return (Array.isArray(v) ? v : v === undefined ? [] : [v]).filter(
    (x): x is Node => typeof x === 'object' && x !== null,
  )
}

export function one(v: unknown): Node | undefined {
  return all(v)[0]
}

export function attribute(n: Node, name: string): string {
  const v = n[`@${name}`]
  return typeof v === 'string' ? v.trim() : ''
}

export function textOf(v: unknown): string {
  const x = Array.isArray(v) ? v[0] : v
  if (typeof x === 'string') return x.trim()
  if (typeof x === 'object' && x !== null && typeof (x as Node)['#text'] === 'string')
    return ((x as Node)['#text'] as string).trim()
  return ''
}

/** OVF 1 and 2 write `<DiskSection>`; OVF 0.9 and oVirt write `<Section xsi:type="ovf:DiskSection_Type">`. */
export function sections(parent: Node | undefined, name: string): Node[] {
  if (!parent) return []
  return all(parent[name]).concat(all(parent.Section).filter((s) => attribute(s, 'type').includes(name)))
}

/** "10" with units "byte * 2^30" is 10 GiB. Undefined when it is a reference or cannot be read. */
export function bytesOf(amount: string, units: string): number | undefined {
  if (!/^\d{1,16}$/.test(amount)) return undefined
  const factor = factorOf(units)
  const n = factor === undefined ? Number.NaN : Number(amount) * factor
  return Number.isSafeInteger(n) ? n : undefined
}

/** Programmatic units (DSP0004), and the words that OVF 0.9 and 1.0 writers use, which all mean powers of 1024. */
function factorOf(units: string): number | undefined {
  const u = units.trim()
  if (u === '' || /^bytes?$/i.test(u)) return 1
  const word = /^(kilo|mega|giga|tera)bytes?$|^([kmgt])i?b$/i.exec(u)
  if (word) return 1024 ** ('kmgt'.indexOf((word[1] ?? word[2])![0]!.toLowerCase()) + 1)
  const power = /^bytes?\s*\*\s*(\d{1,4})\s*\^\s*(\d{1,2})$/i.exec(u)
  if (power) return Number(power[1]) ** Number(power[2])
  const times = /^bytes?\s*\*\s*(\d{1,12})$/i.exec(u)
  return times ? Number(times[1]) : undefined
}

export function bad(what: string): FormatError {
  return new FormatError('bad-ovf', `The OVF ${what}.`)
}
