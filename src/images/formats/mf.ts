import { FormatError } from './source.ts'

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
    const digest: Digest = { algorithm, hex: m[3]!.toLowerCase() }
    const before = out.get(m[2]!)
    if (before && before.algorithm === algorithm && before.hex !== digest.hex)
      throw new FormatError(
        'bad-ovf',
        `The OVF's manifest (.mf) has two different ${algorithm} sums for ${JSON.stringify(m[2])}.`,
      )
    // of several sums of one file the strongest counts
    if (!before || LENGTHS[before.algorithm] < LENGTHS[algorithm]) out.set(m[2]!, digest)
  }
  return out
}
