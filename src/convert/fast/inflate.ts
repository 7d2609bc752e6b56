import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import { CLUSTER } from '../../images/index.ts'
import { finishQcow2, placeTables } from './metadata.ts'
import { COUNTERS, type GrainTask } from './task.ts'
import type { FastCopy, FastHooks } from './types.ts'
import { runWorkers } from './workers.ts'

/**
 * streamOptimized VMDK → plain qcow2 or raw: worker threads inflate and write side by side, each byte once. Grains that hold zeros alone become holes.
 * qcow2: header, L1 and L2 tables, then the data in the order of the disk, then refcounts, so the same source gives the same file.
 */
export async function inflate(c: FastCopy, format: 'qcow2' | 'raw', hooks: FastHooks): Promise<void> {
  const file = await open(c.path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL)
  try {
    const tables = placeTables(c.map, c.virtual_size, 1)
    const end = tables.end + c.map.total
    await file.truncate(format === 'raw' ? c.virtual_size : end * CLUSTER)
    const task: GrainTask = {
      mode: format,
      full: true,
      source: { fd: c.window.file.handle.fd, offset: c.window.offset, size: c.window.size },
      output: { fd: file.fd, copy: false, shift: 0, data_cluster: tables.end, tail_cluster: 0 },
      capacity_bytes: c.virtual_size,
      map: c.map,
      l2: tables.l2,
      refcounts: new Uint16Array(new SharedArrayBuffer(0)),
      refcounts_from: 0,
      unused: new Int32Array(new SharedArrayBuffer(Math.ceil(c.map.total / 32) * 4)),
      counters: new Int32Array(new SharedArrayBuffer(COUNTERS * 4)),
    }
    await runWorkers(task, c.threads, hooks.signal, hooks.onGrains)
    if (format === 'raw') {
      await file.sync()
      return
    }
    const isHole = (rank: number): boolean => ((task.unused[rank >>> 5]! >>> (rank & 31)) & 1) === 1
    await finishQcow2(file, {
      virtual_size: c.virtual_size,
      tables,
      end,
      refcount: (n) => (n >= tables.end && isHole(n - tables.end) ? 0 : 1),
      signal: hooks.signal,
    })
  } finally {
    await file.close()
  }
}
