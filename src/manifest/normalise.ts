import { basename, extname, resolve } from 'node:path'
import { parseDuration, parseSize } from '../text/units.ts'
import { timeOf } from './time.ts'
import type { Manifest } from './kinds/index.ts'
import type { VmManifest } from './kinds/vm.ts'
import { batchSuffix, safeName } from './safe-name.ts'

export interface ManifestDefaults {
  priority?: number
  retry?: { max_attempts?: number; delay_ms?: number; factor?: number }
}

/**
 * A checked manifest in the form the rest of the program reads: durations in milliseconds beside the original, paths
 * absolute, spelled-out variants reduced to one. Normalising twice changes nothing.
 *
 * Booleans that are absent stay absent: Go drops an explicit false, so "absent" and "false" are different statements
 * (contracts A7 17), and each step chooses the safe default for what was not said.
 */
export function normalise(
  m: Manifest,
  o: { fileName?: string; defaults?: ManifestDefaults; baseDir?: string; dropDir?: string },
): Manifest {
  const out: Record<string, unknown> = { ...m }
  delete out.submitter
  if (m.timeout !== undefined) {
    // 0 is Go's "not set", and no job can be meant to end before it starts.
    const ms = parseDuration(m.timeout)!
    if (ms > 0) out.timeout_ms = ms
    else delete out.timeout_ms
  }
  if (m.not_before !== undefined) out.not_before_ms = Math.max(0, timeOf(m.not_before))
  if (m.hosts !== undefined) out.hosts = [m.hosts].flat()
  if (m.after !== undefined) out.after = dependencies(m.after)
  if (m.retry !== undefined) {
    const { delay } = m.retry as { delay?: unknown }
    out.retry = {
      ...o.defaults?.retry,
      ...m.retry,
      ...(delay !== undefined && { delay_ms: parseDuration(delay) }),
    }
  }
  if (m.kind === 'convert') {
    if (o.baseDir !== undefined)
      out.disks = m.disks.map((d) => ({ ...d, local_path: resolve(o.baseDir!, d.local_path) }))
    if (m.compress !== undefined)
      out.compress = (m.compress as unknown) === 'yes' ? true : (m.compress as unknown) === 'no' ? false : m.compress
  }
  if (m.kind === 'batch') {
    const stem = basename(o.fileName ?? '', extname(o.fileName ?? ''))
    out.name = m.name ?? m.batch_metadata?.batch_id ?? (safeName(stem + batchSuffix) ? stem : 'batch')
    out.batch_metadata = { parallel_limit: 4, continue_on_error: true, ...(m.batch_metadata as object | undefined) }
    const folder = o.baseDir ?? o.dropDir
    out.vms = m.vms.map((vm, i) => ({
      ...vm,
      id: vm.id ?? `vm_${i}`,
      ...(folder === undefined ? {} : { manifest: withPaths(vm.manifest, folder) }),
    }))
  }
  if (m.kind === 'command') out.command = normalCommand(m.command)
  if (m.kind === 'vm') Object.assign(out, normalVm(m, o.baseDir ?? o.dropDir))
  return out as unknown as Manifest
}

/** One form of `after`: a list of jobs and how they must have ended. */
function dependencies(after: NonNullable<Manifest['after']>): { job: string; when: string }[] {
  return [after]
    .flat()
    .map((x) => (typeof x === 'string' ? { job: x, when: 'success' } : { ...x, when: x.when ?? 'success' }))
}

/** A VM's manifest with what it names made absolute: its own path, or the disks of one that stands in the batch. */
function withPaths(manifest: string | Record<string, unknown>, folder: string): unknown {
  if (typeof manifest === 'string') return resolve(folder, manifest)
  if (!Array.isArray(manifest.disks)) return manifest
  const disks = manifest.disks.map((d: { local_path?: unknown } | null) =>
    typeof d?.local_path === 'string' ? { ...d, local_path: resolve(folder, d.local_path) } : d,
  )
  return { ...manifest, disks }
}

function normalCommand(c: Record<string, unknown> & { limits?: Record<string, unknown> }): unknown {
  const { limits } = c
  return {
    ...c,
    ...(c.argv === undefined && { argv: ['/bin/sh', '-c', c.shell] }),
    ...(c.kill_grace !== undefined && { kill_grace_ms: parseDuration(c.kill_grace) }),
    ...(limits && {
      limits: {
        ...limits,
        ...(limits.memory !== undefined && { memory_bytes: parseSize(limits.memory) }),
        ...(limits.cpu_time !== undefined && { cpu_time_ms: parseDuration(limits.cpu_time) }),
      },
    }),
  }
}

const GIB = 2 ** 30

/** Ghost's names become ours, amounts bytes and milliseconds, paths absolute; a VM made of a job's result waits for that job. */
function normalVm(m: VmManifest, folder: string | undefined): Record<string, unknown> {
  const out: Record<string, unknown> = { name: m.name ?? m.vm_id }
  if (m.grace !== undefined) out.grace_ms = parseDuration(m.grace)
  const wait = m.wait_for_address
  if (wait !== undefined && wait !== true) out.wait_for_address_ms = wait === false ? 0 : parseDuration(wait)
  const { vm } = m
  if (vm === undefined) return out
  const absolute = (path: string) => (folder === undefined ? path : resolve(folder, path))
  out.vm = {
    ...vm,
    ...(vm.vcpus === undefined && vm.vcpu !== undefined && { vcpus: vm.vcpu }),
    ...bytes('memory_bytes', vm.memory, vm.ram_gb),
    ...bytes('disk_bytes', vm.disk, vm.disk_gb),
    ...(vm.image !== undefined && { image: absolute(vm.image) }),
    ...(vm.disks && {
      disks: vm.disks.map((d) => ({
        ...d,
        ...bytes('size_bytes', d.size),
        ...(d.path !== undefined && { path: absolute(d.path) }),
      })),
    }),
    ...(vm.cloud_init &&
      vm.cloud_init.user_data_file !== undefined && {
        cloud_init: { ...vm.cloud_init, user_data_file: absolute(vm.cloud_init.user_data_file) },
      }),
  }
  if (vm.from_job !== undefined) {
    const after = m.after === undefined ? [] : dependencies(m.after)
    if (!after.some((d) => d.job === vm.from_job)) after.push({ job: vm.from_job, when: 'success' })
    out.after = after
  }
  return out
}

function bytes(name: string, size: number | string | undefined, gib?: number): Record<string, number> | undefined {
  if (size !== undefined) return { [name]: parseSize(size)! }
  return gib === undefined ? undefined : { [name]: Math.round(gib * GIB) }
}
