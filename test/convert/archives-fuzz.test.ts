/**
 * Mutated OVAs, plain and packed, through the whole conversion: an error with a name, or the very disks that were packed, since every byte
 * of them has a sum. Never a byte of a neighbouring file, never something left over. FUZZ_IMAGES is the number of mutations of each kind (default 12),
 * FUZZ_SEED repeats a run.
 */
import { randomBytes, randomInt } from 'node:crypto'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { JobError } from '../../src/jobs/types.ts'
import { generator, mutateTar, type Random } from '../support/mutate-tar.ts'
import { makeOva } from '../support/ova-maker.ts'
import { contentOf, makeStreamVmdk } from '../support/vmdk-maker.ts'
import { assertSame, bench, disk, list, tempFolder } from './harness.ts'

const RUNS = Number(process.env.FUZZ_IMAGES ?? 12)
/** The same each time, unless it is to find something new. */
const SEED = Number(process.env.FUZZ_SEED ?? (process.env.FUZZ_IMAGES ? randomInt(2 ** 31) : 20260501))
const GRAIN = 65536
const noise = (n: number): Buffer => {
  const next = generator(SEED + n)
  return Buffer.from(Array.from({ length: GRAIN }, () => next(256)))
}
const SECRET = Buffer.from(`TOP-SECRET-${randomBytes(24).toString('hex')}`)
let dir: string
let ova: Buffer
const shapes = [
  { grains: [noise(1), 'hole' as const, Buffer.alloc(GRAIN, 'one ')], footer: true },
  { grains: ['hole' as const, noise(2)], capacity_sectors: 200 },
]

beforeAll(() => {
  dir = tempFolder()
  for (const [n, shape] of shapes.entries()) writeFileSync(join(dir, `${n}.raw`), contentOf(shape))
  writeFileSync(join(dir, 'd0.vmdk'), SECRET) // what an OVF beside it would mean
  const disks = shapes.map((s, n) => ({
    name: `d${n}.vmdk`,
    bytes: makeStreamVmdk(s),
    capacity_bytes: contentOf(s).length,
  }))
  ova = makeOva({ disks, mf: 'SHA256', dialect: 'pax', always_extend: true })
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

/** A byte or a piece of the packed stream. */
function mutateAny(b: Buffer, next: Random): Buffer {
  const out = Buffer.from(b)
  if (next(4) === 0) return out.subarray(0, next(out.length))
  for (let n = 1 + next(3); n > 0; n--) out[next(next(2) ? 20 : out.length)] = next(256)
  return out
}

test.each([
  ['plain', (next: Random) => mutateTar(ova, next)],
  ['in gzip', (next: Random) => gzipSync(mutateTar(ova, next), { level: 1 })],
  ['gzip itself', (next: Random) => mutateAny(gzipSync(ova, { level: 1 }), next)],
])(`%s, FUZZ_SEED=${SEED}`, async (_name, make) => {
  const next = generator(SEED)
  let good = 0
  for (let run = 0; run < RUNS; run++) {
    const path = join(dir, 'vm.ova')
    writeFileSync(path, make(next))
    const b = bench({ config: { convert: { no_progress_timeout: 20_000, max_virtual_size: 2 ** 32 } } })
    try {
      const compress = next(2) === 0
      const r = await b.run({ disks: [disk(path, 'ova')], compress }).catch((e: unknown) => e)
      if (r instanceof Error) {
        expect(r, `run ${run}: ${r}`).toBeInstanceOf(JobError)
        expect((r as JobError).code, `run ${run}: ${r}`).not.toBe('internal')
        expect(b.answers()).toEqual(['vm.report.json'])
      } else if ((r as { warnings: unknown[] }).warnings.length === 0) {
        good++
        assertSame(join(dir, '0.raw'), 'raw', join(b.answerDir, 'vm.qcow2'), 'qcow2')
        assertSame(join(dir, '1.raw'), 'raw', join(b.answerDir, 'vm.disks', 'disk-0-1.qcow2'), 'qcow2')
      }
      for (const f of list(b.dir))
        if (readFileSync(join(b.dir, f)).includes(SECRET)) throw new Error(`run ${run}: ${f} holds the secret`)
      // what failed in a later step keeps what is unpacked, for the next attempt
      if (!(r instanceof Error)) expect(list(b.attemptDir).filter((f) => f.startsWith('unpack/'))).toEqual([])
    } finally {
      b.close()
    }
  }
  expect(good).toBeLessThan(RUNS)
})
