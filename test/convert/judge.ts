/**
 * Mutated disks through the fast paths themselves, each judged by readers that share no code with them; now and then through the whole
 * pipeline, judged by qemu-img. A violation is an Error that names the seed.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { closeSync, mkdirSync, openSync, readFileSync, readSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Target } from '../../src/convert/targets.ts'
import { fastCopy } from '../../src/convert/fast/copy.ts'
import { Unusual } from '../../src/convert/fast/tables.ts'
import type { ConvertHooks, ConvertPlan } from '../../src/convert/types.ts'
import {
  fileSource,
  type GrainMap,
  grainsProblem,
  guardImage,
  ImageError,
  type ImageWindow,
  mapGrains,
  openBeneath,
  windowOf,
} from '../../src/images/index.ts'
import { JobError } from '../../src/jobs/types.ts'
import { type Random, seeded } from '../sim/random.ts'
import { bench, disk, list } from './harness.ts'
import { mutatedDisk } from './mutations.ts'
import { type Disk, difference, GRAIN, readQcow2, readStreamVmdk } from './reference.ts'

export interface Tally {
  disks: number
  /** by the guard, before any path is chosen */
  refused: number
  /** conversions left to qemu-img */
  fallback: number
  damaged: number
  made: number
  clones: number
  /** disks that went through the whole pipeline and qemu-img too, and how many of them were converted */
  sampled: number
  sampled_made: number
}

export const noTally = (): Tally => ({
  disks: 0,
  refused: 0,
  fallback: 0,
  damaged: 0,
  made: 0,
  clones: 0,
  sampled: 0,
  sampled_made: 0,
})

const paths = [
  { path: 'zero-copy', grains: 'full', format: 'qcow2' },
  { path: 'zero-copy', grains: 'structure', format: 'qcow2' },
  { path: 'inflate', grains: 'full', format: 'qcow2' },
  { path: 'inflate', grains: 'full', format: 'raw' },
] as const
type Path = (typeof paths)[number]

/** What only the neighbour in the archive holds. */
const NEIGHBOUR = Buffer.from('another-disk-of-the-archive:7c1f0b')

/** One mutated disk by every path. `sample`: through the pipeline and qemu-img as well. @throws {Error} a violation */
export async function judge(seed: number, dir: string, tally: Tally, sample: boolean): Promise<void> {
  const r = seeded(seed)
  const { file, what } = mutatedDisk(r)
  const blame = (text: string) => new Error(`seed ${seed} (${what.join(', ') || 'sound'}): ${text}`)
  const place = inArchive(r, file)
  const source = join(dir, 'source')
  writeFileSync(source, place.bytes)
  tally.disks++
  let reference: Disk | undefined
  try {
    reference = readStreamVmdk(file)
  } catch {
    // qemu opens no such disk either
  }
  if (sample) holdReference(file, reference, dir, blame)
  const opened = await openBeneath(source, ['/'])
  try {
    const window: ImageWindow = {
      file: opened,
      offset: place.offset,
      size: file.length,
      whole: place.offset === 0 && place.bytes.length === file.length,
      label: 'mutated.vmdk',
      source: windowOf(fileSource(opened.handle, opened.stat.size), place.offset, file.length),
      sibling: () => Promise.reject(new ImageError('There is no other file.', { code: 'not-found' })),
    }
    const image = await guardImage(window, 'vmdk', { maxVirtualSize: 2 ** 40 }).catch((e: unknown) => e)
    if (!(image instanceof Error) && typeof image === 'object') {
      const guarded = image as Awaited<ReturnType<typeof guardImage>>
      if (!guarded.sparse || grainsProblem(guarded.sparse) !== undefined) tally.fallback++
      else {
        for (const p of paths) {
          const out = join(dir, 'out')
          rmSync(out, { force: true })
          await byPath(p, guarded, await mapGrains(window.source, guarded.sparse), out, dir, tally, reference, blame)
          if (tally.made > 0) holdsNothingElse(out, blame)
        }
      }
    } else if (image instanceof ImageError) tally.refused++
    else throw blame(`the guard threw ${String((image as Error)?.stack ?? image)}`)
  } finally {
    await opened.close()
  }
  if (sample) await throughPipeline(r, file, reference, dir, tally, blame)
}

/** Alone, or between the bytes of another disk. */
function inArchive(r: Random, file: Buffer): { bytes: Buffer; offset: number } {
  if (r.chance(0.4)) return { bytes: file, offset: 0 }
  const before = neighbour(512 * (1 + r.int(400)))
  // a tar pads members with zeros
  const padding = Buffer.alloc((512 - (file.length % 512)) % 512)
  return { bytes: Buffer.concat([before, file, padding, neighbour(70_000)]), offset: before.length }
}

function neighbour(length: number): Buffer {
  return Buffer.alloc(length, NEIGHBOUR)
}

async function byPath(
  p: Path,
  image: Awaited<ReturnType<typeof guardImage>>,
  map: GrainMap,
  out: string,
  dir: string,
  tally: Tally,
  reference: Disk | undefined,
  blame: (text: string) => Error,
): Promise<void> {
  const name = `${p.path} to ${p.format} (${p.grains})`
  const plan = { scratch: dir, workers: 0, validate: { grains: p.grains, structure_allowed: true } } as ConvertPlan
  const target = { disk: { id: 'disk-0', image, map }, format: p.format, file: 'out', final: 'out' } as Target
  const hooks: ConvertHooks = {
    signal: new AbortController().signal,
    progress: () => undefined,
    log: () => undefined,
    spawned: () => undefined,
  }
  try {
    const how = await fastCopy(plan, hooks, target, p.path, false, () => undefined)
    if (how.transfer === 'clone') tally.clones++
  } catch (e) {
    rmSync(out, { force: true })
    if (e instanceof Unusual) {
      tally.fallback++
      return
    }
    if (!(e instanceof ImageError) || e.code !== 'damaged-grain') throw blame(`${name} threw ${(e as Error).stack}`)
    if (reference && reference.broken.size === 0) throw blame(`${name} calls a sound disk damaged: ${e.message}`)
    tally.damaged++
    return
  }
  tally.made++
  if (reference === undefined) throw blame(`${name} made an image of a disk that qemu does not open`)
  // without inflating them nobody can tell that grains are damaged: the documented limit of structure
  const but = new Set(p.grains === 'structure' ? reference.broken.keys() : [])
  let differs: string | undefined
  try {
    differs = difference(reference, p.format === 'raw' ? sparseRaw(out, reference) : readQcow2(readFileSync(out)), but)
  } catch (e) {
    throw blame(`${name} made an image that cannot be read: ${(e as Error).message}`)
  }
  if (differs !== undefined) throw blame(`${name} made a wrong image: ${differs}`)
}

/** Reads a raw image: all of a small one, of a large one (nearly all holes) what the source has. */
function sparseRaw(path: string, reference: Disk): Disk {
  const { size } = statSync(path)
  const grains = new Map<number, Buffer>()
  const fd = openSync(path, 'r')
  const all = size <= 64 * GRAIN ? Array.from({ length: Math.ceil(size / GRAIN) }, (_, i) => i) : []
  for (const index of [...all, ...reference.grains.keys()]) {
    const b = Buffer.alloc(GRAIN)
    grains.set(index, b.subarray(0, readSync(fd, b, 0, GRAIN, index * GRAIN)))
  }
  closeSync(fd)
  return { capacity: size, grains, broken: new Map() }
}

function holdsNothingElse(path: string, blame: (text: string) => Error): void {
  let bytes: Buffer
  try {
    if (statSync(path).size > 2 ** 27) return
    bytes = readFileSync(path)
  } catch {
    return // no image was made
  }
  if (bytes.includes(NEIGHBOUR.subarray(0, 28))) throw blame('the image holds bytes of another disk of the archive')
}

/** Is our own reader right about this disk? */
function holdReference(file: Buffer, reference: Disk | undefined, dir: string, blame: (text: string) => Error): void {
  if (reference && reference.capacity > 2 ** 30) return
  const [alone, raw] = [join(dir, 'alone.vmdk'), join(dir, 'alone.raw')]
  writeFileSync(alone, file)
  const r = spawnSync('qemu-img', ['convert', '-f', 'vmdk', '-O', 'raw', alone, raw], { encoding: 'utf8' })
  try {
    const sound = reference !== undefined && reference.broken.size === 0
    if (r.status !== 0) {
      if (sound && !reference.lenient) throw blame(`qemu-img reads less than our reader: ${r.stderr}`)
      return
    }
    if (reference === undefined || !sound) {
      // our reader knows streamOptimized disks alone
      if (reference !== undefined)
        throw blame(`qemu-img reads more than our reader: ${[...reference.broken.values()][0]}`)
      return
    }
    const differs = difference(reference, { ...sparseRaw(raw, reference), capacity: reference.capacity })
    if (differs !== undefined) throw blame(`qemu-img reads otherwise than our reader: ${differs}`)
  } finally {
    for (const f of [alone, raw]) rmSync(f, { force: true })
  }
}

async function throughPipeline(
  r: Random,
  file: Buffer,
  reference: Disk | undefined,
  dir: string,
  tally: Tally,
  blame: (text: string) => Error,
): Promise<void> {
  if (reference && reference.capacity > 2 ** 30) return
  tally.sampled++
  const home = join(dir, 'pipeline')
  mkdirSync(home)
  const source = join(home, 'mutated.vmdk')
  writeFileSync(source, file)
  const b = bench({ dir: home, config: { convert: { no_progress_timeout: 60_000, max_virtual_size: 2 ** 32 } } })
  try {
    const format = r.pick(['qcow2', 'qcow2', 'raw'])
    const outcome = await b
      .run({ disks: [disk(source, 'vmdk')], compress: r.chance(0.5), output: { format } })
      .catch((e: unknown) => e)
    if (outcome instanceof Error) {
      if (!(outcome instanceof JobError) || outcome.code === 'internal')
        throw blame(`the job failed with ${outcome.stack}`)
      const left = list(b.answerDir).filter((f) => f !== 'vm.report.json')
      if (left.length > 0) throw blame(`the job failed and left ${left.join(', ')}`)
      return
    }
    tally.sampled_made++
    const image = join(b.answerDir, `vm.${format}`)
    try {
      execFileSync('qemu-img', ['compare', '-q', '-f', 'vmdk', '-F', format, source, image], { stdio: 'pipe' })
    } catch (e) {
      throw blame(
        `the job succeeded with ${b.report().disks[0].path}, but qemu-img compare says: ${(e as { stderr?: Buffer }).stderr ?? ''}${(e as { stdout?: Buffer }).stdout ?? ''}`,
      )
    }
  } finally {
    rmSync(home, { recursive: true, force: true })
  }
}
