import { Worker } from 'node:worker_threads'
import { ImageError } from '../../images/index.ts'
import { threadProgram } from '../checksum.ts'
import { Unusual } from './tables.ts'
import { GRAINS_DONE, type GrainTask, STOP, type WorkerEnd } from './task.ts'
import { work } from './work.ts'

/** How often progress is told, in milliseconds. */
const TICK = 200

/**
 * Runs `threads` workers over a task to their end; 0 does it in the calling thread, which then stands still: for tests of many small disks.
 * @param onGrains told now and then how many grains are done
 * @throws {Unusual} {ImageError} damaged-grain, worker; errors of files as they are; the signal's reason when aborted
 */
export async function runWorkers(
  task: GrainTask,
  threads: number,
  signal: AbortSignal,
  onGrains: (done: number) => void,
): Promise<void> {
  signal.throwIfAborted()
  const stop = (): void => void Atomics.store(task.counters, STOP, 1)
  signal.addEventListener('abort', stop, { once: true })
  const timer = setInterval(() => onGrains(Atomics.load(task.counters, GRAINS_DONE)), TICK)
  try {
    const run = (): Promise<WorkerEnd> =>
      runWorker(task).then((end) => {
        if (end.end !== 'done') stop()
        return end
      })
    const ends = threads === 0 ? [work(task)] : await Promise.all(Array.from({ length: threads }, run))
    signal.throwIfAborted()
    // of several, what says most: a full disk or a damaged grain is no reason to try another path
    const bad =
      ends.find((e) => e.end === 'failed') ??
      ends.find((e) => e.end === 'damaged') ??
      ends.find((e) => e.end === 'unusual')
    if (bad) throw errorOf(bad)
    onGrains(Atomics.load(task.counters, GRAINS_DONE))
  } finally {
    clearInterval(timer)
    signal.removeEventListener('abort', stop)
  }
}

function errorOf(end: Exclude<WorkerEnd, { end: 'done' }>): Error {
  if (end.end === 'unusual') return new Unusual(end.message)
  if (end.end === 'damaged') return damagedError(end.message)
  return Object.assign(new Error(end.message), end.code === undefined ? {} : { code: end.code })
}

/** A grain that holds something else than its checksum says. */
function damagedError(message: string): ImageError {
  return new ImageError(`The disk is damaged. ${message}.`, {
    code: 'damaged-grain',
    phase: 'copy',
    hint: 'The source is not what was exported: copy or export it again. Nothing was published.',
  })
}

function runWorker(task: GrainTask): Promise<WorkerEnd> {
  return new Promise((resolve) => {
    const worker = new Worker(threadProgram('grain-worker', import.meta.url), {
      workerData: task,
      // buffers lie outside the heap; a small heap keeps many workers cheap
      resourceLimits: { maxYoungGenerationSizeMb: 8, maxOldGenerationSizeMb: 64 },
      execArgv: [],
    })
    let end: WorkerEnd = { end: 'failed', message: 'A worker thread ended without a word.', code: undefined }
    worker.on('message', (m: WorkerEnd) => {
      end = m
    })
    worker.on('error', (e) => {
      end = { end: 'failed', message: `A worker thread failed: ${String(e)}`, code: undefined }
    })
    worker.on('exit', () => resolve(end))
  })
}
