/**
 * Mutated images through the whole conversion: an error with a name or a disk, never a byte of a neighbouring file, never something left over.
 * FUZZ_IMAGES is the number of mutations of each image (default 6), FUZZ_SEED repeats a run.
 */
import { randomBytes, randomInt } from 'node:crypto'
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { JobError } from '../../src/jobs/types.ts'
import { isAlive } from '../../src/process/index.ts'
import { generator, type Random } from '../support/mutate-tar.ts'
import { bench, disk, list, qemuImg, tempFolder } from './harness.ts'

const RUNS = Number(process.env.FUZZ_IMAGES ?? 6)
/** The same each time, unless it is to find something new. */
const SEED = Number(process.env.FUZZ_SEED ?? (process.env.FUZZ_IMAGES ? randomInt(2 ** 31) : 20260501))
const SECRET = Buffer.from(`TOP-SECRET-${randomBytes(24).toString('hex')}`)
let dir: string

const images: [string, string, string[]][] = [
  ['qcow2', 'qcow2', []],
  ['vmdk', 'vmdk', ['-o', 'subformat=streamOptimized']],
  ['vmdk', 'vmdk', ['-o', 'subformat=monolithicSparse']],
  ['vmdk', 'vmdk', ['-o', 'subformat=twoGbMaxExtentSparse']],
  ['vhd', 'vpc', []],
  ['vhdx', 'vhdx', []],
  ['vdi', 'vdi', []],
]

beforeAll(() => {
  dir = tempFolder()
  writeFileSync(join(dir, 'raw'), Buffer.concat([randomBytes(300_000), Buffer.alloc(700_000), randomBytes(4096 - 576)]))
  writeFileSync(join(dir, 'shadow'), Buffer.concat([SECRET, Buffer.alloc(65536)]))
})
afterAll(() => rmSync(dir, { recursive: true, force: true }))

/** Numbers and names into the first KiB; half of the names are those that qemu would follow. */
function mutate(b: Buffer, next: Random): void {
  for (let i = 1 + next(4); i > 0; i--) {
    const at = next(Math.min(b.length - 8, next(2) ? 1024 : b.length - 8))
    const how = next(4)
    if (how === 0) b[at] = next(256)
    else if (how === 1) b.writeBigUInt64BE((BigInt(next(2 ** 40)) ** 2n) & 0xffffffffffffffffn, at)
    else if (how === 2) b.writeUInt32LE(next(2 ** 32), at)
    else b.write([join(dir, 'shadow'), '../shadow', 'KDMV', 'QFI\xfb', 'parentFileNameHint="'][next(5)]!, at, 'latin1')
  }
}

test.each(images)(`%s (%s %j), FUZZ_SEED=${SEED}`, async (format, driver, options) => {
  const next = generator(SEED)
  const home = join(dir, `${format}-${randomBytes(3).toString('hex')}`)
  mkdirSync(home)
  qemuImg('convert', '-f', 'raw', '-O', driver, ...options, join(dir, 'raw'), join(home, `good.${format}`))
  for (let run = 0; run < RUNS; run++) {
    const inbox = join(home, String(run))
    mkdirSync(inbox)
    for (const f of readdirSync(home).filter((f) => f.endsWith(`.${format}`)))
      copyFileSync(join(home, f), join(inbox, f))
    const files = readdirSync(inbox)
    const victim = join(inbox, files[next(files.length)]!)
    const bytes = readFileSync(victim)
    mutate(bytes, next)
    writeFileSync(victim, bytes)
    const b = bench({ config: { convert: { no_progress_timeout: 20_000, max_virtual_size: 2 ** 32 } } })
    try {
      const r = await b
        .run({ disks: [disk(join(inbox, `good.${format}`), format)], output: { format: 'raw' } })
        .catch((e: unknown) => e)
      if (r instanceof Error) {
        expect(r, String(r)).toBeInstanceOf(JobError)
        expect((r as JobError).code, String(r)).not.toBe('internal')
        expect(b.answers()).toEqual(['vm.report.json'])
      } else expect(b.answers()).toContain('vm.raw')
      for (const f of list(b.dir))
        if (readFileSync(join(b.dir, f)).includes(SECRET)) throw new Error(`${f} holds the secret`)
      expect(b.spawned.some((id) => isAlive(id))).toBe(false)
    } finally {
      b.close()
    }
  }
})
