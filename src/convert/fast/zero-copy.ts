import { constants } from 'node:fs'
import { chmod, copyFile, open, rm } from 'node:fs/promises'
import { CLUSTER, type GrainMap, type ImageWindow } from '../../images/index.ts'
import { runGroup } from '../../process/index.ts'
import { finishQcow2, placeTables } from './metadata.ts'
import { COUNTERS, type GrainTask, TAIL_USED } from './task.ts'
import type { FastCopy, FastHooks } from './types.ts'
import { runWorkers } from './workers.ts'

/**
 * streamOptimized VMDK → compressed qcow2 without inflating: the deflate body of each grain is a valid compressed cluster where it lies. With FICLONE
 * the data is shared with the source and only metadata is written; without, each grain is copied once. What `full` checks is
 * what was written: with a clone all is read from the clone, without one each grain is checked in the buffer that is written.
 * @returns what was done, for the report
 */
export async function zeroCopy(c: FastCopy, hooks: FastHooks): Promise<{ transfer: 'clone' | 'copy' }> {
  const clone = await cloneWindow(c.window, c.map, c.path, hooks)
  const file = await open(c.path, clone ? constants.O_RDWR : constants.O_RDWR | constants.O_CREAT | constants.O_EXCL)
  try {
    const shift = clone ? c.window.offset : c.map.first < CLUSTER ? CLUSTER : 0
    const data = Math.max(1, Math.ceil((shift + c.window.size) / CLUSTER))
    const tables = placeTables(c.map, c.virtual_size, data)
    const from = Math.floor(shift / CLUSTER)
    const task: GrainTask = {
      mode: 'zero-copy',
      full: c.grains === 'full',
      // A clone is read from the disk, whatever of its source is in memory: for markers alone that takes thirty times as long. What `structure`
      // rests on, a checksum, is computed from the source too; a source that changed meanwhile is told by its times.
      source: {
        fd: clone && c.grains === 'full' ? file.fd : c.window.file.handle.fd,
        offset: c.window.offset,
        size: c.window.size,
      },
      output: { fd: file.fd, copy: !clone, shift, data_cluster: 0, tail_cluster: tables.end },
      capacity_bytes: c.virtual_size,
      map: c.map,
      l2: tables.l2,
      refcounts: new Uint16Array(new SharedArrayBuffer((data - from) * 2)),
      refcounts_from: from,
      unused: new Int32Array(new SharedArrayBuffer(0)),
      counters: new Int32Array(new SharedArrayBuffer(COUNTERS * 4)),
    }
    await runWorkers(task, c.threads, hooks.signal, hooks.onGrains)
    const tail = task.counters[TAIL_USED] === 1 ? 1 : 0
    await finishQcow2(file, {
      virtual_size: c.virtual_size,
      tables,
      end: tables.end + tail,
      refcount: (n) => (n === 0 || n >= data ? 1 : n < from ? 0 : task.refcounts[n - from]!),
      signal: hooks.signal,
    })
    return { transfer: clone ? 'clone' : 'copy' }
  } finally {
    await file.close()
  }
}

/**
 * Shares the source's blocks with `path`, then takes away what is not the disk's own: the rest of an archive is another disk's data. False where the
 * filesystem cannot (no reflinks, two filesystems), and when a grain lies where the header must go; nothing is left behind then.
 */
async function cloneWindow(w: ImageWindow, map: GrainMap, path: string, hooks: FastHooks): Promise<boolean> {
  if (map.total === 0 || w.offset + map.first < CLUSTER) return false
  try {
    await copyFile(
      `/proc/self/fd/${w.file.handle.fd}`,
      path,
      constants.COPYFILE_FICLONE_FORCE | constants.COPYFILE_EXCL,
    )
  } catch {
    hooks.signal.throwIfAborted()
    await rm(path, { force: true })
    return false
  }
  await chmod(path, 0o644)
  const file = await open(path, 'r+')
  try {
    const { size } = await file.stat()
    if (size < w.offset + w.size)
      throw Object.assign(new Error('The source became shorter while it was read.'), { code: 'EIO' })
    await file.truncate(w.offset + w.size)
  } finally {
    await file.close()
  }
  if (w.offset > 0 && !(await punch(path, w.offset, hooks))) {
    await rm(path)
    return false
  }
  return true
}

async function punch(path: string, length: number, hooks: FastHooks): Promise<boolean> {
  let said = ''
  const r = await runGroup(['fallocate', '--punch-hole', '--offset', '0', '--length', String(length), path], {
    stdin: 'ignore',
    signal: hooks.signal,
    onSpawn: hooks.spawned,
    onStderr: (b) => {
      said += b.toString('utf8')
    },
  })
  hooks.signal.throwIfAborted()
  if (r.exit_code !== 0)
    hooks.log('agent', `A clone could not be cut to the disk, so its data is copied: ${said.trim()}\n`)
  return r.exit_code === 0
}
