import { grainsProblem, ImageError } from '../images/index.ts'
import type { SourceDisk } from './inspect.ts'
import type { ConvertPlan, CopyPath, OutputFormat } from './types.ts'

/** Which path copies a disk, and why; the reason completes "by …, because". */
export interface Choice {
  path: CopyPath
  reason: string
}

/**
 * Chooses by what inspection found, before anything is written.
 * @throws {ImageError} path-unavailable when the plan asks for a path that cannot be used
 */
export function choosePath(plan: ConvertPlan, disk: Pick<SourceDisk, 'id' | 'image'>, format: OutputFormat): Choice {
  const best = bestPath(plan, disk, format)
  if (plan.path === 'auto' || plan.path === best.path) return best
  if (plan.path === 'qemu-img') return { path: 'qemu-img', reason: 'it was asked for' }
  const compress = plan.output.compress && format === 'qcow2'
  const why =
    best.path === 'qemu-img'
      ? best.reason
      : compress
        ? 'compressed output was asked for, and inflating writes plain disks'
        : 'plain output is wanted, and compressed clusters are all that it writes ("compress": true asks for them)'
  throw pathUnavailable(plan.path, disk.id, why)
}

export function pathUnavailable(path: string, id: string, why: string): ImageError {
  return new ImageError(`The path ${JSON.stringify(path)} cannot be used for disk "${id}": ${why}.`, {
    code: 'path-unavailable',
    phase: 'inspect',
    hint: 'Leave out convert.path, or set it to "auto" or "qemu-img".',
  })
}

function bestPath(plan: ConvertPlan, { image }: Pick<SourceDisk, 'image'>, format: OutputFormat): Choice {
  const other = (reason: string): Choice => ({ path: 'qemu-img', reason })
  if (image.format !== 'vmdk' || !image.sparse) {
    return other(
      `the source is ${image.format}${image.subformat === undefined ? '' : ` (${image.subformat})`}, not a streamOptimized VMDK`,
    )
  }
  const problem = grainsProblem(image.sparse)
  if (problem !== undefined) return other(problem)
  if (format === 'vdi') return other('the output is vdi')
  if (format === 'raw' || !plan.output.compress) {
    return { path: 'inflate', reason: `a streamOptimized VMDK becomes a plain ${format}` }
  }
  if (plan.strict) return other('strict was asked for, so every cluster is compressed anew')
  return { path: 'zero-copy', reason: 'a streamOptimized VMDK becomes a compressed qcow2' }
}
