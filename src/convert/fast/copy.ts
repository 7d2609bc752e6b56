import { join } from 'node:path'
import type { Target } from '../targets.ts'
import type { ConvertHooks, ConvertPlan, CopyHow } from '../types.ts'
import { inflate } from './inflate.ts'
import type { FastHooks } from './types.ts'
import { zeroCopy } from './zero-copy.ts'

/**
 * Copies a streamOptimized VMDK by one of the fast paths; `choosePath` said that it can.
 * @param verified a checksum of the same bytes is computed beside the copy
 * @throws {Unusual} when only qemu-img may read the disk; {ImageError} damaged-grain
 */
export async function fastCopy(
  plan: ConvertPlan,
  hooks: ConvertHooks,
  t: Target,
  path: 'zero-copy' | 'inflate',
  verified: boolean,
  advance: (part: number) => void,
): Promise<Partial<CopyHow>> {
  const { image } = t.disk
  const window = image.windows[0]!
  const map = t.disk.map!
  const tables = map.directory.reduce((n, t) => n + (t === 0 ? 0 : 1), 0)
  const grains =
    plan.validate.grains === 'structure' && (verified || plan.validate.structure_allowed) ? 'structure' : 'full'
  const copy = {
    window,
    map,
    virtual_size: image.virtual_size,
    path: join(plan.scratch, t.file),
    threads: plan.workers === 0 ? 0 : Math.max(1, Math.min(plan.workers, tables)),
    grains: grains as 'full' | 'structure',
  }
  const own: FastHooks = {
    signal: hooks.signal,
    onGrains: (done) => advance(map.total === 0 ? 1 : done / map.total),
    spawned: hooks.spawned,
    log: hooks.log,
  }
  if (path === 'zero-copy') {
    if (grains !== plan.validate.grains) {
      hooks.log(
        'agent',
        `copy ${t.disk.id}: grains are checked in full; structure alone needs a checksum of the file, or convert.grains in the configuration\n`,
      )
    }
    return { grains, ...(await zeroCopy(copy, own)) }
  }
  await inflate(copy, t.format === 'raw' ? 'raw' : 'qcow2', own)
  return {}
}
