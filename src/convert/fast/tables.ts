import { readSync, writeSync } from 'node:fs'
// not by way of images/index.ts: a thread starts in a third of the time without the XML parser
import {
  CLUSTER,
  compressedPlace,
  putCompressedEntry,
  putPlainEntry,
  touchedClusters,
} from '../../images/formats/qcow2-write.ts'
import {
  GRAIN,
  GRAIN_MARKER,
  GTES,
  markerProblem,
  ZLIB_HEADER,
  ZLIB_TRAILER,
} from '../../images/formats/vmdk-grains.ts'
import { BadStream, type Inflater, inflater } from './inflater.ts'
import { GRAINS_DONE, type GrainTask, STOP, TAIL_USED, ZERO_GRAINS } from './task.ts'

/** The disk is not what the fast paths know; qemu-img may still read it. */
export class Unusual extends Error {}
/** A grain does not hold what its checksum says. No other reader gets the right bytes either. */
export class Damaged extends Error {}

const SECTOR = 512
const ZEROS = Buffer.alloc(GRAIN)
/** One of each for a thread, which does one table at a time. */
const ENTRIES = Buffer.alloc(GTES * 4)
const L2 = Buffer.alloc(GTES * 8)
/** Larger reads and writes leave the processor's cache and are slower (measured: 128 KiB 0.6 s, 1 MiB 1.5 to 2.5 s for 1.2 GB). */
const READ_AHEAD = 256 * 1024

/** Reads pieces of the VMDK through one buffer; pieces in rising order cost one system call for many. */
export interface GrainReader {
  /** `length` bytes from byte `at` of the VMDK, valid until the next call; fewer at its end. `ahead`: more will be wanted behind them. */
  get(at: number, length: number, ahead: boolean): Buffer
  /** Copies what `get` gave last to byte `to + at` of a file, now or together with what follows it; `flush` MUST end the run. */
  copy(at: number, length: number, fd: number, to: number): void
  flush(): void
  /** the result is valid until the next call */
  inflate: Inflater
}

export function grainReader(source: GrainTask['source']): GrainReader {
  const buffer = Buffer.allocUnsafeSlow(READ_AHEAD)
  let start = 0
  let have = 0
  /** in the buffer, and not yet written: one write for each grain takes twice the time (measured: 0.58 s and 0.30 for 637 MB) */
  let pending: { from: number; end: number; fd: number; to: number } | undefined
  const flush = (): void => {
    if (pending)
      write(pending.fd, buffer.subarray(pending.from - start, pending.end - start), pending.from + pending.to)
    pending = undefined
  }
  return {
    inflate: inflater(GRAIN),
    get: (at, length, ahead) => {
      if (at < start || at + length > start + have) {
        flush()
        // what is there of the wanted piece already is moved to the front, not read again
        const keep = at >= start && at < start + have ? start + have - at : 0
        if (keep > 0) buffer.copyWithin(0, at - start, have)
        start = at
        have = keep
        const want = Math.min(ahead ? buffer.length : length, source.size - at)
        while (have < want) {
          const n = readSync(source.fd, buffer, have, want - have, source.offset + at + have)
          if (n === 0) break
          have += n
        }
      }
      return buffer.subarray(at - start, Math.min(at - start + length, have))
    },
    copy: (at, length, fd, to) => {
      const end = Math.min(at + length, start + have)
      if (pending && pending.end === at) pending.end = end
      else {
        flush()
        pending = { from: at, end, fd, to }
      }
    },
    flush,
  }
}

/** One grain with data: where it lies in the VMDK, and which one of the disk it is. */
interface Grain {
  /** index on the disk */
  index: number
  /** bytes from the start of the VMDK, of the marker */
  at: number
  /** bytes of the zlib stream behind the marker */
  length: number
}

/** Does one grain table: reads, checks, copies or inflates its grains and writes its 4 KiB of L2. @throws {Unusual} {Damaged} */
export function doTable(task: GrainTask, table: number, reader: GrainReader): void {
  const entries = readTable(task, table)
  const l2 = L2.fill(0)
  const grains = Math.min(GTES, Math.ceil(task.capacity_bytes / GRAIN) - table * GTES)
  const one = task.mode === 'zero-copy' ? zeroCopyGrain : inflateGrain
  let rank = task.map.before[table]!
  let done = 0
  for (let g = 0; g < grains; g++) {
    const sector = entries.readUInt32LE(g * 4)
    if (sector === 0 || (sector === 1 && task.map.zeroed_gte)) continue
    // the counts were taken from these entries; more of them now would be written into another table's clusters
    if (rank + 1 > countEnd(task, table)) throw new Unusual('the grain tables changed while they were read')
    one(task, reader, locate(task, reader, table * GTES + g, sector), rank, l2)
    rank++
    if (++done % 64 === 0) {
      Atomics.add(task.counters, GRAINS_DONE, done)
      done = 0
      if (Atomics.load(task.counters, STOP) !== 0) return
    }
  }
  reader.flush()
  Atomics.add(task.counters, GRAINS_DONE, done)
  if (task.mode === 'raw') return
  const cluster = task.l2[Math.floor(table / 16)]!
  write(task.output.fd, l2, cluster * CLUSTER + (table % 16) * l2.length)
}

/** The rank behind the table's last grain. */
function countEnd(task: GrainTask, table: number): number {
  return task.map.before[table + 1] ?? task.map.total
}

function readTable(task: GrainTask, table: number): Buffer {
  const at = task.map.directory[table]! * SECTOR
  const bytes = ENTRIES.fill(0)
  // one that is cut off ends in zeros, which are holes: mapGrains() refused those
  if (at + bytes.length > task.source.size) throw new Unusual(`grain table ${table} leaves the file`)
  readSync(task.source.fd, bytes, 0, bytes.length, task.source.offset + at)
  return bytes
}

function locate(task: GrainTask, reader: GrainReader, index: number, sector: number): Grain {
  const at = sector * SECTOR
  const head = reader.get(at, GRAIN_MARKER + ZLIB_HEADER, task.full || task.output.copy || task.mode !== 'zero-copy')
  if (head.length < GRAIN_MARKER + ZLIB_HEADER) throw new Unusual(`the grain for sector ${index * 128} leaves the file`)
  const problem = markerProblem(head, 0, index * (GRAIN / SECTOR))
  if (problem !== undefined) throw new Unusual(problem)
  const length = head.readUInt32LE(8)
  if (at + GRAIN_MARKER + length > task.source.size)
    throw new Unusual(`the grain for sector ${index * 128} leaves the file`)
  return { index, at, length }
}

function zeroCopyGrain(task: GrainTask, reader: GrainReader, grain: Grain, _rank: number, l2: Buffer): void {
  const slot = grain.index % GTES
  // the first cluster is the header's; mapGrains() saw none there
  if (grain.at + task.output.shift < CLUSTER) throw new Unusual('the grain tables changed while they were read')
  const partial = partialLength(task, grain.index)
  if (task.full || partial !== undefined) {
    const bytes = inflate(reader, grain, partial)
    if (bytes.length < CLUSTER) {
      // a cluster is always whole: the short last grain becomes a plain one
      const whole = Buffer.alloc(CLUSTER)
      bytes.copy(whole)
      const at = task.output.tail_cluster * CLUSTER
      write(task.output.fd, whole, at)
      putPlainEntry(l2, slot, at)
      Atomics.store(task.counters, TAIL_USED, 1)
      return
    }
  }
  const stream = grain.at + GRAIN_MARKER + task.output.shift
  const place = compressedPlace(stream + ZLIB_HEADER, grain.length - ZLIB_HEADER - ZLIB_TRAILER)
  if (!place) throw new Unusual(`the grain for sector ${grain.index * 128} has a stream of ${grain.length} bytes`)
  if (task.output.copy) {
    const padded = Math.ceil((GRAIN_MARKER + grain.length) / SECTOR) * SECTOR
    reader.get(grain.at, padded, true)
    reader.copy(grain.at, padded, task.output.fd, task.output.shift)
  }
  const [first, last] = touchedClusters(place)
  for (let c = first; c <= last; c++) {
    if (Atomics.add(task.refcounts, c - task.refcounts_from, 1) >= 65535)
      throw new Unusual('more than 65535 grains lie in one cluster of the file')
  }
  putCompressedEntry(l2, slot, place)
}

function inflateGrain(task: GrainTask, reader: GrainReader, grain: Grain, rank: number, l2: Buffer): void {
  const partial = partialLength(task, grain.index)
  const bytes = inflate(reader, grain, partial)
  const zeros = bytes.equals(bytes.length === GRAIN ? ZEROS : ZEROS.subarray(0, bytes.length))
  if (zeros) Atomics.add(task.counters, ZERO_GRAINS, 1)
  if (task.mode === 'raw') {
    if (!zeros) write(task.output.fd, bytes.subarray(0, partial ?? GRAIN), grain.index * GRAIN)
    return
  }
  if (zeros) {
    Atomics.or(task.unused, rank >>> 5, 1 << (rank & 31))
    return
  }
  const at = (task.output.data_cluster + rank) * CLUSTER
  write(task.output.fd, bytes, at)
  putPlainEntry(l2, grain.index % GTES, at)
}

/** Bytes that the disk has of its last grain, when that is not a whole one. */
function partialLength(task: GrainTask, index: number): number | undefined {
  const rest = task.capacity_bytes - index * GRAIN
  return rest < GRAIN ? rest : undefined
}

/** A grain must inflate to 64 KiB; the disk's last may be shorter, down to the disk's end. */
function inflate(reader: GrainReader, grain: Grain, partial: number | undefined): Buffer {
  const stream = reader.get(grain.at, GRAIN_MARKER + grain.length, true).subarray(GRAIN_MARKER)
  let bytes: Buffer
  try {
    bytes = reader.inflate(stream)
  } catch (e) {
    if (e instanceof BadStream) throw damaged(grain, e.message)
    throw e
  }
  if (bytes.length < (partial ?? GRAIN)) throw damaged(grain, `it inflates to ${bytes.length} bytes only`)
  return bytes
}

function damaged(grain: Grain, what: string): Damaged {
  return new Damaged(`The grain at byte ${grain.at} of the VMDK, for byte ${grain.index * GRAIN} of the disk: ${what}`)
}

function write(fd: number, bytes: Buffer, at: number): void {
  let done = 0
  while (done < bytes.length) done += writeSync(fd, bytes, done, bytes.length - done, at + done)
}
