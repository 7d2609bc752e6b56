/** One handler per kind. What is heavy (conversion) is loaded when the first job of its kind runs. */
import type { BatchManifest, Manifest, VmManifest } from '../manifest/index.ts'
import { command } from './command.ts'
import type { JobContext, JobHandler, JobOutcome } from './types.ts'

// biome-ignore lint/suspicious/noExplicitAny: each handler takes its own kind of manifest, and the map holds all of them
type AnyHandler = JobHandler<any>

/** A disk each: four disks keep four qemu-img busy. */
function convertWeight(m: { disks?: readonly unknown[] }): number {
  return Math.max(1, m.disks?.length ?? 1)
}

const convert: AnyHandler = {
  kind: 'convert',
  weight: convertWeight,
  async run(m: Manifest, c: JobContext): Promise<JobOutcome> {
    const { convert: real } = await import('./convert.ts')
    return (real as AnyHandler).run(m, c)
  },
}

const batch: AnyHandler = {
  kind: 'batch',
  weight: () => 0,
  async run(m: Manifest, c: JobContext): Promise<JobOutcome> {
    const { runBatch } = await import('./batch.ts')
    return runBatch(m as BatchManifest, c as JobContext<BatchManifest>)
  },
}

const vm: AnyHandler = {
  kind: 'vm',
  weight: () => 1,
  async run(m: Manifest, c: JobContext): Promise<JobOutcome> {
    const { runVmJob } = await import('./vm.ts')
    return runVmJob(m as VmManifest, c as JobContext<VmManifest>)
  },
}

export const handlers: ReadonlyMap<string, AnyHandler> = new Map([
  [convert.kind, convert],
  [batch.kind, batch],
  [vm.kind, vm],
  [command.kind, command as AnyHandler],
])
