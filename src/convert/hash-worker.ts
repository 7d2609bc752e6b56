/** A worker thread that hashes a window of an open file. */
import { createHash } from 'node:crypto'
import { readSync } from 'node:fs'
import { parentPort, workerData } from 'node:worker_threads'

export interface HashTask {
  /** of the process */
  fd: number
  offset: number
  size: number
  algorithm: string
  /** not 0: give up */
  stop: Int32Array<SharedArrayBuffer>
  /** bytes that are hashed so far */
  done: BigInt64Array<SharedArrayBuffer>
}

export type HashEnd = { hex: string } | { error: string; code: string | undefined }

const CHUNK = 256 * 1024

function hash(t: HashTask): HashEnd {
  try {
    const h = createHash(t.algorithm)
    const buffer = Buffer.allocUnsafeSlow(CHUNK)
    let done = 0
    while (done < t.size && Atomics.load(t.stop, 0) === 0) {
      const n = readSync(t.fd, buffer, 0, Math.min(CHUNK, t.size - done), t.offset + done)
      if (n === 0) break // shorter than it was: the hash will not match
      h.update(buffer.subarray(0, n))
      done += n
      Atomics.store(t.done, 0, BigInt(done))
    }
    return { hex: h.digest('hex') }
  } catch (e) {
    return { error: e instanceof Error ? e.message : String(e), code: (e as NodeJS.ErrnoException).code }
  }
}

parentPort!.postMessage(hash(workerData as HashTask))
