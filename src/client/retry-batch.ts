import type { Place } from './place.ts'
import { type JobStatus, listJobs } from './status.ts'

interface Vm extends Record<string, unknown> {
  id: string
}

/**
 * The manifest of a batch that repeats another. VMs that it converted are named with the job that did it, so that only the others are run,
 * and those with the job that failed. Of a batch that succeeded all are run again, as with any other job.
 */
export async function repeatedBatch(
  place: Place,
  status: JobStatus,
  manifest: Record<string, unknown>,
): Promise<Record<string, unknown>> {
  const vms = manifest.vms as Vm[]
  if (status.state === 'succeeded') return { ...manifest, vms: vms.map(({ done_by: _, retry_of: __, ...vm }) => vm) }
  const children = new Map<string, JobStatus>()
  for (const child of await listJobs(place, { parent: status.id }))
    if (child.vm_id !== undefined) children.set(child.vm_id, child)
  return { ...manifest, vms: vms.map((vm) => repeatedVm(vm, children.get(vm.id))) }
}

/** A VM that was no job of this batch keeps what an earlier retry wrote. */
function repeatedVm(vm: Vm, child: JobStatus | undefined): Vm {
  if (child === undefined) return vm
  const { done_by: _, retry_of: __, ...rest } = vm
  return { ...(rest as Vm), [child.state === 'succeeded' ? 'done_by' : 'retry_of']: child.id }
}
