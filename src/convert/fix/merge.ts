import { constants } from 'node:fs'
import { copyFile, rename, rm, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { convertImage, progressReader, qemuImg } from '../../images/index.ts'
import type { ProcessIdentity } from '../../process/index.ts'
import { recordStep, type StepRecord, syncFile } from '../artefacts.ts'
import { requireSpace } from '../space.ts'
import type { DiskCopy } from '../targets.ts'
import type { ConvertHooks, ConvertPlan } from '../types.ts'
import { watchCopy } from '../watch.ts'
import { mergeState } from './stage.ts'
import type { FixReport } from './types.ts'

/**
 * Writes the fixed clusters of the overlays into the copies, in place. It can be broken off at any point and run again: the overlay is
 * only read (`qemu-img commit -d`) and still holds every changed cluster, and the record that the merge has begun was durable before the
 * first byte. Only an attempt that owns both files comes here (see artefacts.ts). In place is right for compressed and zero-copy images too:
 * qcow2 gives a changed cluster a plain one at the end of the file and leaves its neighbours where they lie. A VDI is written anew beside the
 * copy: qemu writes its header and its block map in no order, so that of 150 merges that were killed in the middle 20 left a header that
 * did not know the last blocks, and the next writer gives such a block to a second place of the disk.
 */
export async function mergeFixes(
  plan: ConvertPlan,
  hooks: ConvertHooks,
  copies: readonly DiskCopy[],
  fixed: FixReport,
): Promise<void> {
  for (const c of copies) {
    hooks.signal.throwIfAborted()
    const name = basename(c.record.file)
    const state = await mergeState(plan, c)
    if (state && !state.started) {
      hooks.log('agent', `merge ${name}: took over the merged file of an earlier attempt\n`)
      continue
    }
    const record: StepRecord = {
      schema: 1,
      step: 'merge',
      name,
      key: plan.fix!.key,
      file: c.record.file,
      final: c.record.final,
    }
    const started = performance.now()
    const file = join(plan.scratch, c.record.file)
    const changed = fixed.changed.some((x) => x.disk_id === c.disk.id)
    if (changed) {
      const before = state ? state.result?.before : await cloneOf(plan.scratch, c.record.file)
      await recordStep(plan.scratch, {
        ...record,
        started: true,
        ...(before === undefined ? {} : { result: { before } }),
      })
      if (state) hooks.log('agent', `merge ${name}: goes on where an earlier attempt was broken off\n`)
      await mergeOverlay(plan, hooks, c, join(plan.scratch, 'fix', `${c.disk.id}.qcow2`), file)
      // clusters that a broken-off run had allocated and not yet linked
      if (state && c.format === 'qcow2') await repairLeaks(plan, hooks, c)
    }
    const duration_ms = Math.round(performance.now() - started)
    await recordStep(plan.scratch, { ...record, duration_ms })
    await rm(`${file}.before`, { force: true })
    c.record.size_bytes = (await stat(file)).size
    hooks.log('agent', `merge ${name}: ${changed ? `done in ${duration_ms} ms` : 'nothing was changed on this disk'}\n`)
  }
  await rm(join(plan.scratch, 'fix', 'source.xml'), { force: true })
}

/** Where the filesystem can clone, the unmerged copy stays as well: for an attempt on another host that cannot know whether this one lives. */
async function cloneOf(scratch: string, file: string): Promise<string | undefined> {
  const before = `${file}.before`
  await rm(join(scratch, before), { force: true })
  try {
    await copyFile(join(scratch, file), join(scratch, before), constants.COPYFILE_FICLONE_FORCE)
    return before
  } catch {
    await rm(join(scratch, before), { force: true })
    return undefined
  }
}

async function mergeOverlay(
  plan: ConvertPlan,
  hooks: ConvertHooks,
  c: DiskCopy,
  overlay: string,
  file: string,
): Promise<void> {
  const node = {
    driver: 'qcow2',
    file: { driver: 'file', filename: overlay },
    // stated here: the overlay's own header names one format of the disk only
    backing: { driver: c.format, file: { driver: 'file', filename: file } },
  }
  const anew = c.format === 'vdi'
  const output = anew ? `${file}.merged` : file
  const watch = watchCopy({
    dir: plan.scratch,
    outputs: [output],
    reserve: anew ? plan.reserve_bytes : 0, // what is written in place was counted when the overlay was
    timeoutMs: plan.no_progress_timeout_ms,
    outer: hooks.signal,
    phase: 'merge',
    what: 'The merge',
  })
  const onProgress = (percent: number): void => {
    watch.mark(percent)
    hooks.progress({ phase: 'merge', message: `${c.disk.id} (${Math.round(percent)} %)` })
  }
  const options = {
    signal: watch.signal,
    log: hooks.log,
    cwd: plan.scratch,
    spawned: (id: ProcessIdentity) => {
      watch.spawned(id)
      hooks.spawned(id)
    },
    phase: 'merge',
    what: `merge the fixed guest into ${basename(file)}`,
  }
  try {
    if (anew) {
      await requireSpace(plan.scratch, (await stat(file)).size + (await stat(overlay)).size, plan.reserve_bytes)
      const graph = { node, fds: [] }
      await convertImage(
        { graph, output, format: c.format, compress: false, compression_type: 'zlib', threads: 1, onProgress },
        options,
      )
      await syncFile(output)
      await rename(output, file)
    } else {
      // -d keeps the overlay as it is
      const args = ['commit', '-p', '-d', `json:${JSON.stringify(node)}`]
      await qemuImg(args, { ...options, onStdout: progressReader(onProgress) })
    }
  } catch (error) {
    if (anew) await rm(output, { force: true })
    throw error
  } finally {
    watch.stop()
  }
}

async function repairLeaks(plan: ConvertPlan, hooks: ConvertHooks, c: DiskCopy): Promise<void> {
  await qemuImg(['check', '-q', '-r', 'leaks', '-f', 'qcow2', c.record.file], {
    ...hooks,
    cwd: plan.scratch,
    phase: 'merge',
    what: `free unused clusters of ${c.record.file}`,
  })
}
