// An attempt's folder as it is when a fix has just been finished: a copy, an overlay over it, and their records. The overlay is written by
// qemu-io instead of virt-v2v: what is looked at is what becomes of finished steps.
import { mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { recordCopy, recordStep } from '../../src/convert/artefacts.ts'
import type { DiskCopy } from '../../src/convert/targets.ts'
import { mergeFixes } from '../../src/convert/fix/merge.ts'
import type { FixReport } from '../../src/convert/fix/types.ts'
import type { ConvertHooks, ConvertPlan, OutputFormat } from '../../src/convert/types.ts'
import type { ProcessIdentity } from '../../src/process/index.ts'
import { qemuImg } from './harness.ts'
import { execFileSync } from 'node:child_process'

export const NAME = { qcow2: 'disk-0.qcow2', raw: 'disk-0.raw', vdi: 'disk-0.vdi' } as const
export const FIX = 'key-of-the-fix'
export const COPY = 'key-of-the-copy'

/** Copies `raw` into a fresh folder, makes an overlay with changes all over it, records both. Returns what the merge must give, as raw. */
export async function fixed(
  scratch: string,
  raw: string,
  format: OutputFormat,
  o: { compress?: boolean; changes: readonly string[] },
): Promise<string> {
  mkdirSync(join(scratch, 'copy'), { recursive: true })
  mkdirSync(join(scratch, 'fix'))
  const file = `copy/${NAME[format]}`
  qemuImg('convert', ...(o.compress ? ['-c'] : []), '-f', 'raw', '-O', format, raw, join(scratch, file))
  await recordCopy(scratch, copyRecord(format))
  const overlay = join(scratch, 'fix/disk-0.qcow2')
  qemuImg('create', '-q', '-f', 'qcow2', '-b', `../${file}`, '-F', format, overlay)
  execFileSync('qemu-io', ['-f', 'qcow2', ...o.changes.flatMap((c) => ['-c', c]), overlay], { stdio: 'ignore' })
  await recordStep(scratch, { schema: 1, step: 'fix', name: 'disk-0.qcow2', key: FIX, file: 'fix/disk-0.qcow2' })
  const want = join(scratch, 'want.raw')
  qemuImg('convert', '-f', 'qcow2', '-O', 'raw', overlay, want)
  return want
}

function copyRecord(format: OutputFormat) {
  return {
    schema: 1 as const,
    step: 'copy' as const,
    disk_id: 'disk-0',
    file: `copy/${NAME[format]}`,
    final: `answer/${NAME[format]}`,
    size_bytes: 0,
    virtual_size_bytes: 0,
    key: COPY,
    checksum_verified: false,
    copy_ms: 1,
    how: { path: 'qemu-img', reason: 'test' } as never,
  }
}

export interface Scene {
  logs: string[]
  spawned: ProcessIdentity[]
}

/** The merge step as the pipeline runs it, in that folder. */
export async function mergeHere(
  scratch: string,
  format: OutputFormat,
  key = FIX,
  o: { signal?: AbortSignal; spawned?: () => void } = {},
): Promise<Scene> {
  const scene: Scene = { logs: [], spawned: [] }
  const plan = {
    scratch,
    earlier: [],
    reserve_bytes: 0,
    no_progress_timeout_ms: 60_000,
    fix: { key },
  } as unknown as ConvertPlan
  const hooks: ConvertHooks = {
    signal: o.signal ?? new AbortController().signal,
    progress: () => undefined,
    log: (_s, t) => void scene.logs.push(t),
    spawned: (id) => {
      scene.spawned.push(id)
      o.spawned?.()
    },
  }
  const copy = {
    disk: { id: 'disk-0', boot: true },
    format,
    record: copyRecord(format),
    adopted: false,
  } as unknown as DiskCopy
  await mergeFixes(plan, hooks, [copy], { changed: [{ disk_id: 'disk-0', overlay_bytes: 1 }] } as unknown as FixReport)
  return scene
}

export const records = (scratch: string) => readdirSync(join(scratch, 'artefacts')).sort()
