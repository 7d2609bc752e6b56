/**
 * Mutated OVAs, OVFs and manifests through everything that finds disks in them: an error with a name, or an answer that an independent reader
 * shares; never a hang, a crash or a byte of anything else. FUZZ_RUNS is the number of mutations of each kind (default 1500), FUZZ_SEED repeats a run.
 */
import { execFileSync } from 'node:child_process'
import { createHash, randomInt } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { expandArchive } from '../../src/convert/archive.ts'
import { bufferSource, FormatError, listTar, parseOvf, type TarMember } from '../../src/images/formats/index.ts'
import { ImageError, type ImageWindow, isPlainName } from '../../src/images/index.ts'
import { generator, mutateTar, pick, type Random } from '../support/mutate-tar.ts'
import { makeOva, makeOvf, type OvaShape, type TarDialect } from '../support/ova-maker.ts'

const RUNS = Number(process.env.FUZZ_RUNS ?? 1500)
/** The same each time, unless it is to find something new. */
const SEED = Number(process.env.FUZZ_SEED ?? (process.env.FUZZ_RUNS ? randomInt(2 ** 31) : 20260501))
let dir: string
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'vmspool-archive-fuzz-'))
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

const shape: OvaShape = {
  disks: [
    { name: 'd0.vmdk', bytes: Buffer.alloc(1500, 'disk zero '), capacity_bytes: 1 << 20, unit: 1 },
    { name: 'd1.vmdk', bytes: Buffer.alloc(700, 'disk one '), capacity_bytes: 2 << 20, unit: 0 },
  ],
  mf: 'SHA256',
  more: [{ name: `${'f'.repeat(120)}.txt`, content: Buffer.from('notes') }],
}
const ovas = (['ustar', 'gnu', 'pax'] as TarDialect[]).map((dialect) =>
  makeOva({ ...shape, dialect, always_extend: dialect !== 'ustar', prefix: dialect === 'gnu' ? './' : '' }),
)

const sha256 = (b: Buffer) => createHash('sha256').update(b).digest('hex')

/** Everything that would be opened beside the archive is refused, so that what is found must lie in the archive. */
function windowOver(bytes: Buffer): ImageWindow {
  return {
    file: { path: '/x.ova' } as ImageWindow['file'],
    offset: 0,
    size: bytes.length,
    whole: true,
    label: '/x.ova',
    source: bufferSource(bytes),
    sibling: async (name) => {
      throw new Error(`asked for ${name} outside the archive`)
    },
  }
}

describe(`FUZZ_SEED=${SEED}`, () => {
  test.each(ovas.map((b, i) => [i, b] as const))('archives, dialect %i', async (i, original) => {
    const next = generator(SEED + i)
    const seen = { accepted: 0, refused: 0 }
    const accepted: { bytes: Buffer; members: TarMember[] }[] = []
    expect((await expandArchive(windowOver(original), 'ova', 'd', [])).disks.map((d) => d.window.size)).toEqual([
      700, 1500,
    ])
    for (let run = 0; run < RUNS; run++) {
      const bytes = mutateTar(original, next)
      const where = `FUZZ_SEED=${SEED}, dialect ${i}, run ${run}`
      try {
        const warnings: string[] = []
        const found = await expandArchive(windowOver(bytes), 'ova', 'd', warnings)
        seen.accepted++
        for (const d of found.disks) {
          expect(d.window.offset, where).toBeGreaterThanOrEqual(512)
          expect(d.window.offset + d.window.size, where).toBeLessThanOrEqual(bytes.length)
        }
        if (warnings.length === 0) {
          // every sum was there: where all are right, this is what was packed
          const contents = await Promise.all(found.disks.map((d) => d.window.source.read(0, d.window.size)))
          const right = found.disks.map((d, n) => sha256(contents[n]!) === d.digest!.hex)
          if (right.every((x) => x)) expect(contents, where).toEqual([shape.disks[1]!.bytes, shape.disks[0]!.bytes])
        }
        if (accepted.length < 40) accepted.push({ bytes, members: await listTar(bufferSource(bytes)) })
      } catch (e) {
        if (!(e instanceof ImageError)) throw new Error(`${where}: ${String(e)}`, { cause: e })
        expect(e.message.length, where).toBeLessThan(2000)
        seen.refused++
      }
    }
    expect(seen.accepted).toBeGreaterThan(RUNS / 50)
    expect(seen.refused).toBeGreaterThan(RUNS / 10)
    for (const a of accepted) compareWithTar(a.bytes, a.members)
  })

  test('OVFs', () => {
    const next = generator(SEED)
    const original = makeOvf(
      shape.disks.map((d) => ({ ...d, href: d.name, chunk_size: 7 })),
      { more: '<vbox:Machine><Hardware><Firmware type="EFI"/></Hardware></vbox:Machine>' },
    )
    let accepted = 0
    for (let run = 0; run < RUNS * 2; run++) {
      const text = mutateXml(original, next)
      try {
        const ovf = parseOvf(text)
        accepted++
        const ids = ovf.disks.map((d) => d.disk_id)
        expect(new Set(ids).size).toBe(ids.length)
        for (const n of [ovf.vcpus, ovf.memory_bytes, ...ovf.disks.flatMap((d) => [d.capacity, d.unit])])
          if (n !== undefined) expect(Number.isSafeInteger(n) && n >= 0, text).toBe(true)
      } catch (e) {
        if (!(e instanceof FormatError))
          throw new Error(`FUZZ_SEED=${SEED}, run ${run}: ${String(e)}\n${text}`, { cause: e })
        expect(e.message.length).toBeLessThan(1000)
      }
    }
    expect(accepted).toBeGreaterThan(RUNS / 50)
  })

  test('OVFs in an archive never lead out of it', async () => {
    const next = generator(SEED)
    for (let run = 0; run < RUNS / 3; run++) {
      const href = pick(next, HREFS) + (next(2) ? pick(next, HREFS) : '')
      const disks = shape.disks.map((d, n) => (n === 0 ? { ...d, name: d.name } : d))
      const bytes = makeOva({ disks, more: [{ name: 'etc', content: Buffer.from('x') }] })
      const at = bytes.indexOf('ovf:href="d1.vmdk"')
      const xml = href.replaceAll('&', '&amp;').replaceAll('"', '').replaceAll('<', '')
      const changed = Buffer.from(bytes)
      if (xml.length > 'd1.vmdk'.length) continue
      changed.write(`ovf:href="${xml}"`.padEnd('ovf:href="d1.vmdk"'.length), at, 'latin1')
      try {
        const found = await expandArchive(windowOver(changed), 'ova', 'd', [])
        for (const d of found.disks) expect(isPlainName(d.window.label.slice('/x.ova:'.length))).toBe(true)
      } catch (e) {
        if (!(e instanceof ImageError)) throw new Error(`FUZZ_SEED=${SEED}, ${href}: ${String(e)}`, { cause: e })
      }
    }
  })
})

const HREFS = [
  '',
  '.',
  '..',
  '/',
  '%2f',
  '%2e',
  '%00',
  '\\',
  'etc',
  'd1.vmdk',
  'http:',
  'a:b',
  '%zz',
  './',
  '../',
  '?',
  '#',
  '~',
]
const TOKENS = [
  '999999999999999999999',
  '-1',
  '1e9',
  '0x10',
  '&lt;',
  '&#0;',
  '&x;',
  '<!DOCTYPE a>',
  '<!ENTITY b "c">',
  '<![CDATA[x]]>',
  '<!-- -->',
  '<?p?>',
  '<Disk/>',
  '<Item/>',
  '<Envelope>',
  '</Envelope>',
  '"',
  '>',
  '\0',
  '__proto__',
  'ovf:/disk/vmdisk1',
  '$'.concat('{size}'),
]

function mutateXml(original: string, next: Random): string {
  let s = original
  for (let times = 1 + next(3); times > 0; times--) {
    const how = next(7)
    const at = next(s.length)
    if (how === 0) s = s.slice(0, at) + pick(next, TOKENS) + s.slice(at)
    else if (how === 1) s = s.slice(0, at) + s.slice(at + next(60))
    else if (how === 2) {
      // an element or a part of one once more
      const from = s.indexOf('<', at)
      const to = s.indexOf('>', from + 1 + next(200))
      if (from >= 0 && to > from) s = s.slice(0, to + 1) + s.slice(from, to + 1) + s.slice(to + 1)
    } else if (how === 3)
      s = s.replace(pick(next, [/\d+/, /"\d+"/, /vmdisk\d/]), (m) => (next(2) ? `${m}${m}` : pick(next, TOKENS)))
    else if (how === 4) {
      const values = [...s.matchAll(/"[^"]*"|>[^<]+</g)]
      const v = pick(next, values)
      if (v) s = s.slice(0, v.index + 1) + pick(next, TOKENS) + s.slice(v.index + v[0].length - 1)
    } else if (how === 5) s = s.slice(0, at) + String.fromCharCode(next(0x500)) + s.slice(at + 1)
    else s = s.slice(0, at)
    if (s === '') return s
  }
  return s
}

/** GNU tar, where it takes the archive without a word, finds the same files at the same size. */
function compareWithTar(bytes: Buffer, ours: readonly TarMember[]): void {
  const path = join(dir, 'accepted.tar')
  writeFileSync(path, bytes)
  let theirs: string
  try {
    theirs = execFileSync('sh', ['-c', 'LC_ALL=C tar --quoting-style=escape -tvf "$1" 2>&1', 'sh', path], {
      encoding: 'latin1',
    })
  } catch {
    return
  }
  if (/^tar: /m.test(theirs)) return
  const sizes = theirs
    .split('\n')
    .filter((l) => /^[-C]/.test(l)) // C: "contiguous", which is a file
    .map((l) => Number(/^\S+ \S+ +(\d+) /.exec(l)![1]))
  expect(ours.filter((m) => m.type === 'file').map((m) => m.size)).toEqual(sizes)
}
