import { FormatError } from './source.ts'

/** One line of an OVF manifest (.mf): "SHA256(disk1.vmdk)= 0123…". Source: DSP0243 5.1. */
export interface Digest {
  algorithm: keyof typeof LENGTHS
  hex: string
}

export interface Mf {
  digests: Map<string, Digest>
  /** lines that say nothing that can be verified, cut to 120 characters */
  unread: string[]
}

/** characters of hex; the newer ones count for more */
const LENGTHS = { sha1: 40, sha224: 56, sha256: 64, sha384: 96, sha512: 128 } as const

/** @throws {FormatError} bad-ovf for a file with two different sums of one kind */
export function parseMf(text: string): Mf {
  const digests = new Map<string, Digest>()
  const unread: string[] = []
  for (const raw of text.replace(/^\uFEFF/, '').split(/\r\n|\n|\r/)) {
    const line = raw.trim()
    if (line === '') continue
    const m = /^(SHA-?\d{1,3})\s*\((.+)\)\s*=\s*([0-9a-f]+)$/i.exec(line)
    const algorithm = (m?.[1] ?? '').toLowerCase().replace('-', '') as Digest['algorithm']
    if (!m || m[3]!.length !== LENGTHS[algorithm]) {
      unread.push(line.slice(0, 120))
      continue
    }
    const name = m[2]!.trim().replace(/^(\.\/)+/, '')
    const digest: Digest = { algorithm, hex: m[3]!.toLowerCase() }
    const before = digests.get(name)
    if (before && before.algorithm === algorithm && before.hex !== digest.hex)
      throw new FormatError(
        'bad-ovf',
        `The OVF's manifest (.mf) has two different ${algorithm} sums for ${JSON.stringify(name)}.`,
      )
    // of several sums of one file the strongest counts
    if (!before || LENGTHS[before.algorithm] < LENGTHS[algorithm]) digests.set(name, digest)
  }
  return { digests, unread }
}
