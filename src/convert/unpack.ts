import { createHash } from 'node:crypto'
import { constants } from 'node:fs'
import { type FileHandle, mkdir, open, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGunzip } from 'node:zlib'
import {
  fileSource,
  ImageError,
  type ImageWindow,
  type OpenedFile,
  type SourceFormat,
  sourceIdentity,
} from '../images/index.ts'
import { adoptStep, recordStep } from './artefacts.ts'
import { requireSpace, spaceGate } from './space.ts'
import type { ConvertHooks, ConvertPlan } from './types.ts'
import { watchCopy } from './watch.ts'
import { errno } from '../process/errno.ts'

/** Unpacked files lie in this folder of the scratch until the job has succeeded: a retry of a later step must not unpack again. */
export const UNPACK_FOLDER = 'unpack'

const CHUNK = 1024 * 1024
/** Zeros in blocks of this size become holes. */
const BLOCK = 64 * 1024
const ZEROS = Buffer.alloc(BLOCK)

/**
 * Whether a file is to be unpacked first. Formats with a signature of their own at the start cannot be meant when a gzip header stands
 * there; a raw disk may start with any bytes, so its name must say so too.
 */
export async function isPacked(w: ImageWindow, format: SourceFormat | 'ova'): Promise<boolean> {
  const head = await w.source.read(0, 3)
  if (head.length < 3 || head[0] !== 0x1f || head[1] !== 0x8b || head[2] !== 8) return false
  if (/\.(t?gz|gzip)$/i.test(w.label)) return true
  if (format === 'raw') return false
  // a fixed VHD is a raw disk with a footer
  return format !== 'vhd' || (await w.source.read(w.size - 512, 8)).toString('latin1') !== 'conectix'
}

/**
 * Unpacks gzip into a file of our own, which can be read at any place. Bounded by the largest disk that is accepted and by the free space;
 * zeros become holes. What an earlier attempt unpacked is taken over. `keep` is told of the open file and MUST see that it is closed.
 * @throws {ImageError} truncated, bad-archive, virtual-size, no-space, stalled, changed; the signal's reason
 */
export async function unpack(
  w: ImageWindow,
  name: string,
  plan: ConvertPlan,
  hooks: ConvertHooks,
  keep: (f: OpenedFile) => void,
): Promise<ImageWindow> {
  const file = `${UNPACK_FOLDER}/${name}`
  const path = join(plan.scratch, file)
  const key = createHash('sha256')
    .update(JSON.stringify(sourceIdentity(w)))
    .digest('hex')
  const found = await adoptStep(plan.scratch, plan.earlier, { step: 'unpack', name, key }, hooks)
  if (found) {
    hooks.log('agent', `unpack ${name}: took over what an earlier attempt unpacked (${found.how} from ${found.from})\n`)
  } else {
    const started = performance.now()
    await mkdir(dirname(path), { recursive: true })
    await inflate(w, path, plan, hooks)
    const duration_ms = Math.round(performance.now() - started)
    await recordStep(plan.scratch, { schema: 1, step: 'unpack', name, key, file, duration_ms })
    hooks.log('agent', `unpack ${name}: ${w.size} bytes of ${w.label} unpacked in ${duration_ms} ms\n`)
  }
  const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW)
  const stat = await handle.stat()
  const own: OpenedFile = {
    path,
    handle,
    stat,
    folders: [],
    borrowed: true,
    from: { file: w.file, offset: w.offset, size: w.size },
    close: () => handle.close(),
  }
  keep(own)
  return {
    file: own,
    offset: 0,
    size: stat.size,
    whole: true,
    label: w.label,
    source: fileSource(handle, stat.size),
    sibling: w.sibling,
  }
}

async function inflate(w: ImageWindow, path: string, plan: ConvertPlan, hooks: ConvertHooks): Promise<void> {
  await requireSpace(plan.scratch, w.size, plan.reserve_bytes)
  const what = `Unpacking ${JSON.stringify(w.label)}`
  const watch = watchCopy({
    dir: plan.scratch,
    outputs: [path],
    reserve: plan.reserve_bytes,
    timeoutMs: plan.no_progress_timeout_ms,
    outer: hooks.signal,
    phase: 'inspect',
    what,
  })
  await rm(path, { force: true }) // of our own, interrupted
  const target = await open(path, 'wx', 0o600)
  const report = (done: number): void => {
    watch.mark(done)
    hooks.progress({ phase: 'inspect', bytes_done: done, bytes_total: w.size, message: `unpacking ${name(w)}` })
  }
  try {
    const into = writer(target, plan, spaceGate(plan.scratch, plan.reserve_bytes, what), w)
    await pipeline(Readable.from(packedBytes(w, report)), createGunzip({ chunkSize: CHUNK }), into.take, {
      signal: watch.signal,
    }).catch((e: NodeJS.ErrnoException) => {
      // zeros behind the end (a tape's, a block device's) end gunzip before its input ends, which is no error
      if (!into.complete() || e.code !== 'ABORT_ERR' || watch.signal.aborted) throw e
    })
    await target.truncate(into.size())
    const now = await w.file.handle.stat()
    if (now.size !== w.file.stat.size || now.mtimeMs !== w.file.stat.mtimeMs) throw changed(w)
  } catch (e) {
    await rm(path, { force: true })
    watch.signal.throwIfAborted()
    throw explain(e, w)
  } finally {
    watch.stop()
    await target.close()
  }
}

async function* packedBytes(w: ImageWindow, report: (done: number) => void): AsyncGenerator<Buffer> {
  for (let at = 0; at < w.size; ) {
    const part = await w.source.read(at, CHUNK)
    if (part.length === 0) return // shorter than it was
    at += part.length
    report(at)
    yield part
  }
}

/** Takes the unpacked bytes one after the other; blocks of zeros are left out. */
function writer(
  target: FileHandle,
  plan: ConvertPlan,
  gate: (bytes: number) => Promise<void>,
  w: ImageWindow,
): { take(chunks: AsyncIterable<Buffer>): Promise<void>; size(): number; complete(): boolean } {
  // no format adds more to a disk than that
  const limit = Math.floor(plan.max_virtual_size * 1.02) + 64 * 1024 * 1024
  let at = 0
  let complete = false
  const take = async (chunks: AsyncIterable<Buffer>): Promise<void> => {
    for await (const chunk of chunks) {
      if (at + chunk.length > limit) throw tooLarge(w, plan.max_virtual_size)
      for (const run of dataRuns(chunk, at)) {
        const length = run.end - run.start
        await gate(length)
        const { bytesWritten } = await target.write(chunk, run.start, length, at + run.start)
        if (bytesWritten !== length) throw Object.assign(new Error('a write was cut short'), { code: 'ENOSPC' })
      }
      at += chunk.length
    }
    complete = true
  }
  return { take, size: () => at, complete: () => complete }
}

/** The parts of a chunk, whose first byte lies at `at` of the file, that hold anything but whole blocks of zeros. */
function* dataRuns(chunk: Buffer, at: number): Generator<{ start: number; end: number }> {
  let start = -1
  for (let from = 0; from < chunk.length; ) {
    const end = Math.min(chunk.length, from + BLOCK - ((at + from) % BLOCK))
    const zero = chunk.subarray(from, end).equals(ZEROS.subarray(0, end - from))
    if (!zero && start < 0) start = from
    if (zero && start >= 0) {
      yield { start, end: from }
      start = -1
    }
    from = end
  }
  if (start >= 0) yield { start, end: chunk.length }
}

function name(w: ImageWindow): string {
  return w.label.slice(w.label.lastIndexOf('/') + 1)
}

function explain(e: unknown, w: ImageWindow): unknown {
  if (e instanceof ImageError) return e
  const { message } = e as Error
  const code = errno(e)
  const label = JSON.stringify(w.label)
  const hint = 'Copy or export the file again; "gzip -t" checks one.'
  if (code === 'Z_BUF_ERROR')
    return new ImageError(`The gzip data of ${label} ends too early: the file is cut off or still being written.`, {
      code: 'truncated',
      hint,
      cause: e,
    })
  if (code.startsWith('Z_'))
    return new ImageError(`The gzip data of ${label} is damaged: ${message}.`, { code: 'bad-archive', hint, cause: e })
  if (code === 'ENOSPC' || code === 'EDQUOT')
    return new ImageError(`There is no space left to unpack ${label}: ${message}.`, {
      code: 'no-space',
      transient: true,
      phase: 'space',
      hint: 'Free space there or let the output lie elsewhere; the job is tried again.',
      cause: e,
    })
  return new ImageError(`${label} could not be unpacked: ${message}.`, { code: 'io', transient: true, cause: e })
}

function tooLarge(w: ImageWindow, limit: number): ImageError {
  return new ImageError(
    `The gzip file ${JSON.stringify(w.label)} unpacks to more than a disk of ${limit} bytes, which is the largest that is accepted.`,
    {
      code: 'virtual-size',
      hint: 'If it really holds a disk that large, raise convert.max_virtual_size in the configuration.',
    },
  )
}

function changed(w: ImageWindow): ImageError {
  return new ImageError(`The file ${JSON.stringify(w.file.path)} changed while it was unpacked.`, {
    code: 'changed',
    transient: true,
    hint: 'Wait until nobody writes to the file; the job is tried again.',
  })
}
