import { existsSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import type { HashEnd, HashTask } from './hash-worker.ts'

/**
 * Hash of a window of an open file, in hex; of fewer bytes when the file became shorter. Runs in a thread: an agent has other things to do.
 * @throws errors of reading; the signal's reason
 */
export async function hashWindow(
  handle: FileHandle,
  o: { offset: number; size: number; algorithm: string; signal: AbortSignal; onBytes?(done: number): void },
): Promise<string> {
  o.signal.throwIfAborted()
  const stop = new Int32Array(new SharedArrayBuffer(4))
  const onAbort = (): void => void Atomics.store(stop, 0, 1)
  o.signal.addEventListener('abort', onAbort, { once: true })
  const done = new BigInt64Array(new SharedArrayBuffer(8))
  const timer = setInterval(() => o.onBytes?.(Number(Atomics.load(done, 0))), 250)
  try {
    const task: HashTask = { fd: handle.fd, offset: o.offset, size: o.size, algorithm: o.algorithm, stop, done }
    const end = await new Promise<HashEnd>((resolve) => {
      const worker = new Worker(threadProgram('hash-worker', import.meta.url), { workerData: task, execArgv: [] })
      let last: HashEnd = { error: 'The hashing thread ended without a word.', code: undefined }
      worker.on('message', (m: HashEnd) => {
        last = m
      })
      worker.on('error', (e) => {
        last = { error: `The hashing thread failed: ${String(e)}`, code: undefined }
      })
      worker.on('exit', () => resolve(last))
    })
    o.signal.throwIfAborted()
    if ('hex' in end) return end.hex
    throw Object.assign(new Error(end.error), end.code === undefined ? {} : { code: end.code })
  } finally {
    clearInterval(timer)
    o.signal.removeEventListener('abort', onAbort)
  }
}

/** SHA-256 of a whole file, in hex. */
export async function hashFile(
  path: string,
  signal: AbortSignal,
  onBytes?: (done: number, size: number) => void,
): Promise<string> {
  const h = await open(path, 'r')
  try {
    const { size } = await h.stat()
    const tell = (done: number): void => onBytes?.(done, size)
    return await hashWindow(h, { offset: 0, size, algorithm: 'sha256', signal, onBytes: tell })
  } finally {
    await h.close()
  }
}

/** A thread's program: the source beside the caller's, or in `workers/` of a bundle. */
export function threadProgram(name: string, from: string): URL {
  if (from.endsWith('.ts')) return new URL(`./${name}.ts`, from)
  const places = [`./workers/${name}.js`, `../workers/${name}.js`].map((p) => new URL(p, from))
  return places.find((p) => existsSync(fileURLToPath(p))) ?? places[0]!
}
