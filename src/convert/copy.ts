import { createHash } from 'node:crypto'
import { mkdir, rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { canZstd, convertImage, graphBuilder, ImageError, sourceIdentity } from '../images/index.ts'
import { adoptCopy, type CopyRecord, recordCopy } from './artefacts.ts'
import { type Check, checksOf } from './checks.ts'
import { choosePath, pathUnavailable } from './choose.ts'
import { compareCopy } from './compare.ts'
import { fastCopy } from './fast/copy.ts'
import { Unusual } from './fast/tables.ts'
import type { OpenedDisk, SourceDisk } from './inspect.ts'
import type { ConvertHooks, ConvertPlan, CopyHow } from './types.ts'
import type { DiskCopy, Target } from './targets.ts'
import { watchCopy } from './watch.ts'

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
    const how = await copyOne(plan, hooks, target, check, meter)
    const copy_ms = Math.round(performance.now() - started)
    await compareCopy(plan, hooks, target)
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
      copy_ms,
      how,
    }
    await recordCopy(plan.scratch, record)
    meter.done(target.disk.info.virtual_size)
    out.push({ disk: target.disk, format: target.format, record, adopted: false })
  }
  return out
}

async function copyOne(
  plan: ConvertPlan,
  hooks: ConvertHooks,
  t: Target,
  checks: readonly Check[],
  meter: CopyMeter,
): Promise<CopyHow> {
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
  let copied = false
  const hashes = checks.map((c) =>
    // a copy by cloning is done long before its checksum
    c
      .run(watch.signal, (done) => {
        if (copied) hooks.progress({ phase: 'checksum', bytes_done: done, bytes_total: c.size, message: t.disk.id })
      })
      .then((actual) => {
        if (actual !== c.expected) throw c.mismatch(actual)
      }),
  )
  // a wrong checksum ends the copy at once; its error is thrown below
  for (const h of hashes) h.catch((e) => watch.abort(e))
  const advance = (part: number): void => {
    watch.mark(part)
    meter.advance(Math.round(t.disk.info.virtual_size * part), t.disk.id)
  }
  const own: ConvertHooks = {
    ...hooks,
    signal: watch.signal,
    spawned: (id) => {
      watch.spawned(id)
      hooks.spawned(id)
    },
  }
  try {
    const how = await byChosenPath(plan, own, t, checks.length > 0, advance)
    await checkUnchanged(t.disk)
    copied = true
    watch.stop() // what is left is reading our own source; a slow hash is no stalled copy
    await Promise.all(hashes)
    return how
  } catch (e) {
    watch.abort(e)
    await Promise.allSettled(hashes)
    await rm(path, { force: true })
    throw e
  } finally {
    watch.stop()
  }
}

async function byChosenPath(
  plan: ConvertPlan,
  hooks: ConvertHooks,
  t: Target,
  verified: boolean,
  advance: (part: number) => void,
): Promise<CopyHow> {
  const choice = choosePath(plan, t.disk, t.format)
  hooks.log('agent', `copy ${t.disk.id}: by ${choice.path}, because ${choice.reason}\n`)
  if (choice.path !== 'qemu-img') {
    try {
      return { ...choice, ...(await fastCopy(plan, hooks, t, choice.path, verified, advance)) }
    } catch (e) {
      if (!(e instanceof Unusual)) throw e
      if (plan.path !== 'auto') throw pathUnavailable(choice.path, t.disk.id, e.message)
      await rm(join(plan.scratch, t.file), { force: true })
      choice.reason = `${choice.path} was begun, but ${e.message}`
      hooks.log('agent', `copy ${t.disk.id}: by qemu-img after all: ${choice.reason}\n`)
    }
  }
  await qemuCopy(plan, hooks, t, advance)
  return { path: 'qemu-img', reason: choice.reason }
}

async function qemuCopy(
  plan: ConvertPlan,
  hooks: ConvertHooks,
  t: Target,
  advance: (part: number) => void,
): Promise<void> {
  const compress = plan.output.compress && t.format === 'qcow2'
  // strict is for readers that inflate by pieces; they know zlib alone
  const wanted = plan.strict ? 'zlib' : plan.output.compression_type
  const type = compress && wanted === 'zstd' && !(await canZstd(plan.scratch, hooks)) ? 'zlib' : wanted
  const builder = graphBuilder(plan.scratch)
  try {
    const graph = { node: await t.disk.image.node(builder), fds: builder.fds() }
    await convertImage(
      {
        graph,
        output: t.file,
        format: t.format,
        compress,
        compression_type: type,
        threads: plan.threads,
        onProgress: (percent) => advance(percent / 100),
      },
      { signal: hooks.signal, cwd: plan.scratch, log: hooks.log, spawned: hooks.spawned },
    )
  } finally {
    await builder.close()
  }
}

/** What was read must be what was inspected; a writer would also make the image a mixture of two states. */
async function checkUnchanged(disk: SourceDisk): Promise<void> {
  for (const w of disk.image.windows) {
    const file = w.file.from?.file ?? w.file
    const now = await file.handle.stat()
    if (now.size === file.stat.size && now.mtimeMs === file.stat.mtimeMs) continue
    throw new ImageError(`The file ${JSON.stringify(file.path)} changed while it was copied.`, {
      code: 'changed',
      phase: 'copy',
      transient: true,
      hint: 'Wait until nobody writes to the file; the job is tried again.',
    })
  }
}

/** Names everything that decides what the copy contains. Not the device number: it differs between hosts of one NFS tree. */
export function copyKey(plan: ConvertPlan, t: Target): string {
  const sources = t.disk.image.windows.map(sourceIdentity)
  const how = [
    t.disk.image.format,
    t.format,
    plan.output.compress,
    plan.output.compression_type,
    t.disk.info.virtual_size,
    t.disk.planned.checksum ?? '',
    plan.verify_checksum,
    plan.path,
    plan.strict,
    plan.validate.grains,
    plan.validate.compare,
  ]
  return createHash('sha256')
    .update(JSON.stringify([sources, how]))
    .digest('hex')
}

function relativeFinal(plan: ConvertPlan, final: string): string {
  return plan.dir.startsWith(`${plan.scratch}/`) ? join(plan.dir.slice(plan.scratch.length + 1), final) : final
}
