import { createHash } from 'node:crypto'
import { mkdir, rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { convertImage, graphBuilder, ImageError } from '../images/index.ts'
import { adoptCopy, type CopyRecord, recordCopy } from './artefacts.ts'
import { hashWindow } from './checksum.ts'
import type { OpenedDisk, SourceDisk } from './inspect.ts'
import type { ConvertHooks, ConvertPlan, OutputFormat } from './types.ts'
import { watchCopy } from './watch.ts'

/** A finished copy of one disk in one format. */
export interface DiskCopy {
  disk: SourceDisk
  format: OutputFormat
  record: CopyRecord
  adopted: boolean
}

/** One image to be written. `final` is relative to the plan's `dir`. */
export interface Target {
  disk: SourceDisk
  format: OutputFormat
  file: string
  final: string
}

/** Progress over all targets: bytes of virtual size. */
export interface CopyMeter {
  advance(bytes: number, message: string): void
  done(bytes: number): void
}

/**
 * Copies all disks of one source file, its checksum computed beside the first copy. A copy is recorded only when the checksum was right,
 * so a record also means verified bytes.
 */
export async function copyOpened(
  plan: ConvertPlan,
  hooks: ConvertHooks,
  opened: OpenedDisk,
  targets: readonly Target[],
  meter: CopyMeter,
): Promise<DiskCopy[]> {
  const out: DiskCopy[] = []
  let verified = false
  for (const target of targets) {
    hooks.signal.throwIfAborted()
    const key = copyKey(plan, target)
    const final = relativeFinal(plan, target.final)
    const found = await adoptCopy(
      plan.scratch,
      plan.earlier,
      { disk_id: target.disk.id, file: target.file, final, key, fix_key: plan.fix?.key },
      hooks,
    )
    if (found) {
      hooks.log(
        'agent',
        `copy ${target.disk.id}: took over the finished copy of an earlier attempt (${found.how} from ${found.from})\n`,
      )
      meter.done(target.disk.info.virtual_size)
      verified ||= found.record.checksum_verified
      out.push({ disk: target.disk, format: target.format, record: found.record, adopted: true })
      continue
    }
    const check = verified ? [] : checksOf(plan, opened, target.disk)
    const started = performance.now()
    await copyOne(plan, hooks, target, check, meter)
    if (check.some((c) => c.whole)) verified = true
    const record: CopyRecord = {
      schema: 1,
      step: 'copy',
      disk_id: target.disk.id,
      file: target.file,
      final,
      size_bytes: (await stat(join(plan.scratch, target.file))).size,
      virtual_size_bytes: target.disk.info.virtual_size,
      key,
      checksum_verified: verified || check.length > 0,
      copy_ms: Math.round(performance.now() - started),
    }
    await recordCopy(plan.scratch, record)
    meter.done(target.disk.info.virtual_size)
    out.push({ disk: target.disk, format: target.format, record, adopted: false })
  }
  return out
}

interface Check {
  algorithm: string
  expected: string
  /** the manifest's checksum of the whole file, not an archive's of one member */
  whole: boolean
  run(signal: AbortSignal): Promise<string>
  mismatch(actual: string): ImageError
}

function checksOf(plan: ConvertPlan, opened: OpenedDisk, disk: SourceDisk): Check[] {
  const checks: Check[] = []
  const { planned, window } = opened
  if (!plan.verify_checksum) return checks
  if (planned.checksum !== undefined) {
    const expected = planned.checksum
    checks.push({
      algorithm: 'sha256',
      expected: expected.replace(/^sha256:/, ''),
      whole: true,
      run: (signal) => hashWindow(window.file.handle, { offset: 0, size: window.size, algorithm: 'sha256', signal }),
      mismatch: (actual) =>
        mismatch(`checksum mismatch for disk "${planned.id}": expected ${expected}, got sha256:${actual}`),
    })
  }
  if (disk.digest) {
    const { algorithm, hex, name } = disk.digest
    const w = disk.image.windows[0]!
    checks.push({
      algorithm,
      expected: hex,
      whole: false,
      run: (signal) => hashWindow(w.file.handle, { offset: w.offset, size: w.size, algorithm, signal }),
      mismatch: (actual) =>
        mismatch(
          `checksum mismatch for disk "${disk.id}": the OVF's manifest expects ${algorithm}:${hex} for ${JSON.stringify(name)}, got ${algorithm}:${actual}`,
        ),
    })
  }
  return checks
}

function mismatch(message: string): ImageError {
  return new ImageError(message, {
    code: 'checksum-mismatch',
    phase: 'copy',
    hint: 'The file is not what was exported: copy or export it again. Nothing was published.',
  })
}

async function copyOne(
  plan: ConvertPlan,
  hooks: ConvertHooks,
  t: Target,
  checks: readonly Check[],
  meter: CopyMeter,
): Promise<void> {
  const path = join(plan.scratch, t.file)
  await mkdir(dirname(path), { recursive: true })
  await rm(path, { force: true }) // a copy of our own that was interrupted
  const watch = watchCopy({
    dir: plan.scratch,
    outputs: [path],
    reserve: plan.reserve_bytes,
    timeoutMs: plan.no_progress_timeout_ms,
    outer: hooks.signal,
    phase: 'copy',
  })
  const builder = graphBuilder(plan.scratch)
  const hashes = checks.map((c) =>
    c.run(watch.signal).then((actual) => {
      if (actual !== c.expected) throw c.mismatch(actual)
    }),
  )
  // a wrong checksum ends the copy at once; its error is thrown below
  for (const h of hashes) h.catch((e) => watch.abort(e))
  try {
    const graph = { node: await t.disk.image.node(builder), fds: builder.fds() }
    const size = t.disk.info.virtual_size
    await convertImage(
      {
        graph,
        output: t.file,
        format: t.format,
        compress: plan.output.compress,
        compression_type: plan.output.compression_type,
        threads: plan.threads,
        onProgress: (percent) => {
          watch.mark(percent)
          meter.advance(Math.round((size * percent) / 100), t.disk.id)
        },
      },
      {
        signal: watch.signal,
        cwd: plan.scratch,
        log: hooks.log,
        spawned: (id) => {
          watch.spawned(id)
          hooks.spawned(id)
        },
      },
    )
    watch.stop() // what is left is reading our own source; a slow hash is no stalled copy
    await Promise.all(hashes)
  } catch (e) {
    watch.abort(e)
    await Promise.allSettled(hashes)
    await rm(path, { force: true })
    throw e
  } finally {
    watch.stop()
    await builder.close()
  }
}

/** Names everything that decides what the copy contains. Not the device number: it differs between hosts of one NFS tree. */
function copyKey(plan: ConvertPlan, t: Target): string {
  const sources = t.disk.image.windows.map((w) => [
    w.file.stat.ino,
    w.file.stat.size,
    w.file.stat.mtimeMs,
    w.offset,
    w.size,
  ])
  const how = [
    t.disk.image.format,
    t.format,
    plan.output.compress,
    plan.output.compression_type,
    t.disk.info.virtual_size,
    t.disk.planned.checksum ?? '',
    plan.verify_checksum,
  ]
  return createHash('sha256')
    .update(JSON.stringify([sources, how]))
    .digest('hex')
}

function relativeFinal(plan: ConvertPlan, final: string): string {
  return plan.dir.startsWith(`${plan.scratch}/`) ? join(plan.dir.slice(plan.scratch.length + 1), final) : final
}
