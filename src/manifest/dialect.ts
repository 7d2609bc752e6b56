import { nearest } from '../text/nearest.ts'
import { show } from '../text/diagnostic.ts'
import { jobFile, jobList } from './dialects/job-file.ts'
import { legacy } from './dialects/legacy.ts'
import type { Dialect } from './dialects/parts.ts'
import { workflow, workflowBatch } from './dialects/workflow.ts'
import { kindNames, type ManifestKind } from './kinds/index.ts'

export type Recognised =
  | { kind: ManifestKind }
  | { dialect: Dialect }
  | { path: string[]; message: string; suggestion?: string; allowed?: readonly string[] }

const isObject = (v: unknown): v is Record<string, unknown> => typeof v === 'object' && v !== null && !Array.isArray(v)

/**
 * Which kind of manifest this is, or in which other dialect that HyperSDK and hyper2kvm speak it is written (contracts A3 batch, A4):
 * their fields mean other things, so they are translated. What cannot be meant here is refused by name.
 */
export function dialectOf(m: Record<string, unknown>): Recognised {
  if (m.kind !== undefined && m.kind !== null && m.kind !== '') {
    const kind = kindNames.find((k) => k === m.kind)
    if (kind !== undefined) return { kind }
    return {
      path: ['kind'],
      message: `kind is ${show(m.kind)}; it must be one of ${kindNames.join(', ')}.`,
      allowed: kindNames,
      suggestion: typeof m.kind === 'string' ? nearest(m.kind, kindNames) : undefined,
    }
  }
  if ('batch_version' in m) return { kind: 'batch' }
  if ('manifest_version' in m || 'disks' in m) return { kind: 'convert' }
  const live = hypervisorIn(m)
  if (live !== undefined) return { path: [live], message: noHypervisor }
  const single = isObject(m.pipeline) && isObject(m.pipeline.load)
  if (m.batch === true || ('vms' in m && !single)) return { dialect: workflowBatch }
  if (single) return { dialect: workflow }
  if (Array.isArray(m.jobs)) return { dialect: jobList }
  if ('input' in m) return { dialect: jobFile }
  if (isObject(m.source) && ('path' in m.source || 'type' in m.source)) return { dialect: legacy }
  for (const kind of ['command', 'vm'] as const)
    if (isObject(m[kind]))
      return {
        path: [],
        message: `The manifest has a "${kind}" block but no kind; add "kind": "${kind}".`,
        suggestion: `"kind": "${kind}"`,
        allowed: kindNames,
      }
  return {
    path: [],
    message: `This is no manifest: it has neither "kind" (one of ${kindNames.join(', ')}) nor "manifest_version": "1.0" with "disks".`,
    allowed: kindNames,
  }
}

const noHypervisor =
  'This is a manifest of the older form with hypervisor and vmware, which names VMs on a hypervisor: vmspool connects to none. Export them first (hyperexport), and drop the manifest of each export, or a batch that names them.'

/** The fourth dialect: VMs that are still on a hypervisor, alone, as defaults, or in a list. */
function hypervisorIn(m: Record<string, unknown>): string | undefined {
  if ('hypervisor' in m) return 'hypervisor'
  if (isObject(m.vmware)) return 'vmware'
  if (isObject(m.defaults) && ('hypervisor' in m.defaults || 'vmware' in m.defaults)) return 'defaults'
  if (Array.isArray(m.vms) && m.vms.some((vm) => isObject(vm) && ('vmware' in vm || 'hypervisor' in vm))) return 'vms'
  return undefined
}
