import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { ProcessIdentity } from '../process/index.ts'
import { runGroup } from '../process/index.ts'
import { ImageError } from './errors.ts'
import type { Graph } from './graph.ts'

/** How each call of qemu-img is run and who hears of it. */
export interface QemuImgOptions {
  signal?: AbortSignal
  /** MUST be told of each child group before it can do harm */
  spawned?(id: ProcessIdentity): void
  /** everything that qemu-img prints, apart from progress */
  log?(stream: 'stdout' | 'stderr', text: string): void
  cwd?: string
  /** path of the program; default qemu-img from PATH */
  program?: string
}

export interface QemuRun {
  stdout: string
  stderr: string
  duration_ms: number
}

/**
 * Bounds for looking at an untrusted header. 200 MB of address space is enough for a plain image (qemu 7.2), but a pinned graph's coroutine
 * stacks and glibc's per-thread arenas take 190 MB before a byte is read, so the arenas are limited and the bound is twice that.
 */
const INFO_LIMITS = { as_bytes: 400_000_000, cpu_s: 5 } as const
const MAX_OUTPUT = 4 * 1024 * 1024

/** Runs qemu-img once. @throws {ImageError} when it fails; the abort reason when aborted */
export async function qemuImg(
  args: readonly string[],
  o: QemuImgOptions & {
    fds?: readonly number[]
    limits?: { as_bytes?: number; cpu_s?: number }
    onStdout?(text: string): void
    phase: string
    what: string
  },
): Promise<QemuRun> {
  let stdout = ''
  let stderr = ''
  const r = await runGroup([o.program ?? 'qemu-img', ...args], {
    cwd: o.cwd,
    stdin: 'ignore',
    extraFds: [...(o.fds ?? [])],
    env: { LC_ALL: 'C', MALLOC_ARENA_MAX: o.limits ? '1' : undefined },
    signal: o.signal,
    limits: o.limits,
    killGraceMs: 2000, // qemu-img ends at once; one that hangs in the kernel needs the KILL
    onSpawn: o.spawned,
    onStdout: (c) => {
      if (o.onStdout) o.onStdout(c.toString('latin1'))
      else if (stdout.length < MAX_OUTPUT) stdout += c.toString('utf8')
    },
    onStderr: (c) => {
      const text = c.toString('utf8')
      if (stderr.length < MAX_OUTPUT) stderr += text
      o.log?.('stderr', text)
    },
  })
  if (o.signal?.aborted) throw o.signal.reason
  if (r.exit_code === 0) return { stdout, stderr, duration_ms: r.duration_ms }
  throw failure(stderr, r, o)
}

/** Names of failures by what qemu-img prints (with LC_ALL=C the messages are strerror(3)'s). */
function failure(
  stderr: string,
  r: { exit_code: number | null; signal: string | null },
  o: { phase: string; what: string },
): ImageError {
  const text = stderr.trim().split('\n').slice(-4).join('\n').slice(-2000)
  const base = {
    phase: o.phase,
    ...(r.exit_code === null ? {} : { exit_code: r.exit_code }),
    ...(r.signal === null ? {} : { signal: r.signal }),
  }
  const why = text === '' ? (r.signal ? `it was ended by ${r.signal}` : `exit code ${r.exit_code}`) : text
  const message = `qemu-img could not ${o.what}: ${why}.`
  if (/No space left on device|Disk quota exceeded/.test(stderr)) {
    return new ImageError(message, {
      ...base,
      code: 'no-space',
      transient: true,
      hint: 'Free space on the output filesystem; the job is tried again.',
    })
  }
  if (/Failed to get .*lock|another process using the image/.test(stderr)) {
    return new ImageError(message, {
      ...base,
      code: 'source-in-use',
      transient: true,
      hint: 'Stop whatever uses the image (a running VM?), or copy from a snapshot.',
    })
  }
  if (/Input\/output error|Stale file handle|Remote I\/O error/.test(stderr)) {
    return new ImageError(message, {
      ...base,
      code: 'io',
      transient: true,
      hint: 'Check the disks and network filesystems of source and output; the kernel log says more.',
    })
  }
  if (r.signal === 'SIGKILL' || r.signal === 'SIGTERM') {
    return new ImageError(message, {
      ...base,
      code: 'killed',
      transient: true,
      hint: 'Something outside vmspool ended it: look for the OOM killer in the kernel log.',
    })
  }
  if (/Cannot allocate memory/.test(stderr) || r.signal === 'SIGXCPU') {
    return new ImageError(message, {
      ...base,
      code: 'resource-limit',
      hint: 'The image needs more memory or time to be opened than an honest one does.',
    })
  }
  return new ImageError(message, {
    ...base,
    code: 'qemu-img',
    hint: 'Check that the source is complete and undamaged.',
  })
}

export interface ImageInfo {
  format: string
  virtual_size: number
  actual_size?: number
}

/** `qemu-img info` on an untrusted image that passed the guard; bounded by prlimit. */
export async function imageInfo(g: Graph, o: QemuImgOptions): Promise<ImageInfo> {
  const run = await qemuImg(['info', '--output=json', jsonName(g.node)], {
    ...o,
    fds: g.fds,
    limits: INFO_LIMITS,
    phase: 'inspect',
    what: 'read the image',
  })
  const j = parseJson(run.stdout, 'info')
  const backing = j['backing-filename'] ?? j['full-backing-filename']
  if (backing !== undefined)
    throw new ImageError(
      `qemu-img found a backing file (${JSON.stringify(backing)}) that our own check of the header did not.`,
      { code: 'has-backing-file', phase: 'inspect' },
    )
  return {
    format: String(j.format),
    virtual_size: Number(j['virtual-size']),
    ...(j['actual-size'] === undefined ? {} : { actual_size: Number(j['actual-size']) }),
  }
}

/** Bytes that an output of this format needs, without compression. */
export async function measure(g: Graph, format: string, o: QemuImgOptions): Promise<number> {
  const run = await qemuImg(['measure', '--output=json', '-O', format, jsonName(g.node)], {
    ...o,
    fds: g.fds,
    phase: 'inspect',
    what: 'estimate the output',
  })
  return Number(parseJson(run.stdout, 'measure').required)
}

export interface CheckResult {
  errors: number
  leaks: number
  corruptions: number
  allocated_clusters?: number
  compressed_clusters?: number
  image_end?: number
}

/** `qemu-img check` of an image that we made. @throws {ImageError} check-failed */
export async function checkImage(file: string, format: string, o: QemuImgOptions): Promise<CheckResult> {
  const run = await qemuImg(['check', '--output=json', '-f', format, file], {
    ...o,
    phase: 'validate',
    what: `check ${file}`,
  }).catch((e) => {
    if (e instanceof ImageError && (e.exit_code === 2 || e.exit_code === 3)) {
      throw new ImageError(`The converted image did not pass qemu-img check: ${e.message}`, {
        code: 'check-failed',
        transient: true,
        phase: 'validate',
        exit_code: e.exit_code,
        hint: 'The image is not published. If it happens again, suspect memory or disks of this host.',
      })
    }
    throw e
  })
  const j = parseJson(run.stdout, 'check')
  const n = (k: string) => (j[k] === undefined ? undefined : Number(j[k]))
  const result: CheckResult = {
    errors: n('check-errors') ?? 0,
    leaks: n('leaks') ?? 0,
    corruptions: n('corruptions') ?? 0,
    allocated_clusters: n('allocated-clusters'),
    compressed_clusters: n('compressed-clusters'),
    image_end: n('image-end-offset'),
  }
  if (result.errors + result.corruptions > 0) {
    throw new ImageError(
      `The converted image did not pass qemu-img check: ${result.errors} error(s), ${result.corruptions} corruption(s).`,
      { code: 'check-failed', transient: true, phase: 'validate' },
    )
  }
  return result
}

export interface ConvertArgs {
  graph: Graph
  /** written by qemu-img; relative to `cwd` */
  output: string
  format: 'qcow2' | 'raw' | 'vdi'
  compress: boolean
  compression_type: 'zlib' | 'zstd'
  /** coroutines, and threads for compression; 1..16 */
  threads: number
  onProgress(percent: number): void
}

/** `qemu-img convert`. The default target cache is "unsafe": the caller MUST fsync the output before it counts. */
export async function convertImage(a: ConvertArgs, o: QemuImgOptions): Promise<QemuRun> {
  // of two parallel requests that extend a VDI the older header may win, and the check fails (qemu 7.2: 4 of 15 with delayed writes)
  const threads = a.format === 'vdi' ? 1 : a.threads
  const args = ['convert', '-p', '-W', '-m', String(threads)]
  if (a.compress && a.format === 'qcow2') args.push('-c', '-o', `compression_type=${a.compression_type}`)
  args.push('-O', a.format, jsonName(a.graph.node), a.output)
  return qemuImg(args, {
    ...o,
    fds: a.graph.fds,
    onStdout: progressReader(a.onProgress),
    phase: 'copy',
    what: `convert to ${a.output}`,
  })
}

/** Feeds on "    (12.34/100%)\r" in pieces of any size. */
export function progressReader(onProgress: (percent: number) => void): (text: string) => void {
  let rest = ''
  return (text) => {
    const parts = (rest + text).split(/[\r\n]/)
    rest = parts.pop()!.slice(-200)
    for (const p of parts) {
      const m = /\((\d+(?:\.\d+)?)\/100%\)/.exec(p)
      if (m) onProgress(Math.min(100, Number(m[1])))
    }
  }
}

/** The pseudo file name under which qemu takes a block graph. */
export function jsonName(node: Record<string, unknown>): string {
  return `json:${JSON.stringify(node)}`
}

function parseJson(text: string, what: string): Record<string, unknown> {
  try {
    return JSON.parse(text) as Record<string, unknown>
  } catch (e) {
    throw new ImageError(`qemu-img ${what} printed something that is no JSON: ${JSON.stringify(text.slice(0, 200))}.`, {
      code: 'qemu-img',
      cause: e,
    })
  }
}

let zstd: Promise<boolean> | undefined

/**
 * Whether the installed qemu-img can write zstd clusters: since 5.1, when built with the library. Asked once per process.
 * @param scratch a folder of ours for an empty image
 */
export function canZstd(scratch: string, o: QemuImgOptions): Promise<boolean> {
  zstd ??= probeZstd(scratch, o)
  zstd.catch(() => {
    zstd = undefined // it was aborted, or could not be run: that says nothing
  })
  return zstd
}

async function probeZstd(scratch: string, o: QemuImgOptions): Promise<boolean> {
  const file = join(scratch, `.zstd-${process.pid}.qcow2`)
  try {
    await qemuImg(['create', '-q', '-f', 'qcow2', '-o', 'compression_type=zstd', file, '64K'], {
      ...(o.signal ? { signal: o.signal } : {}),
      ...(o.spawned ? { spawned: o.spawned } : {}),
      phase: 'copy',
      what: 'create an image with zstd clusters',
    })
    return true
  } catch (e) {
    if (e instanceof ImageError && e.code === 'qemu-img') return false
    throw e
  } finally {
    await rm(file, { force: true })
  }
}
