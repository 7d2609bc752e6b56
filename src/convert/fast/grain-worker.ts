/** A worker thread. See `task.ts`. */
import { parentPort, workerData } from 'node:worker_threads'
import type { GrainTask } from './task.ts'
import { work } from './work.ts'

parentPort!.postMessage(work(workerData as GrainTask))
