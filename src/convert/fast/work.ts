import { doTable, Damaged, grainReader, Unusual } from './tables.ts'
import { type GrainTask, NEXT_TABLE, STOP, type WorkerEnd } from './task.ts'

/** Takes grain tables until there are no more; several threads may do so at once. See `task.ts`. */
export function work(task: GrainTask): WorkerEnd {
  try {
    const reader = grainReader(task.source)
    for (;;) {
      if (Atomics.load(task.counters, STOP) !== 0) return { end: 'done' }
      const table = Atomics.add(task.counters, NEXT_TABLE, 1)
      if (table >= task.map.directory.length) return { end: 'done' }
      if (task.map.directory[table] !== 0) doTable(task, table, reader)
    }
  } catch (e) {
    if (e instanceof Unusual) return { end: 'unusual', message: e.message }
    if (e instanceof Damaged) return { end: 'damaged', message: e.message }
    return {
      end: 'failed',
      message: e instanceof Error ? e.message : String(e),
      code: (e as NodeJS.ErrnoException | undefined)?.code,
    }
  }
}
