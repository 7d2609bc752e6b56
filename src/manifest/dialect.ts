import { nearest } from '../text/nearest.ts'
import { show } from '../text/diagnostic.ts'
import { kindNames, type ManifestKind } from './kinds/index.ts'

export type Dialect =
  | { kind: ManifestKind }
  | { path: string[]; message: string; suggestion?: string; allowed?: readonly string[] }

const isObject = (v: unknown): v is Record<string, unknown> => typeof v === 'object' && v !== null && !Array.isArray(v)

/**
 * Which kind of manifest this is. A manifest without `kind` is Artifact Manifest 1.0 when it looks like one; the other
 * dialects that HyperSDK and hyper2kvm speak (contracts A3 batch, A4) are recognised and refused by name, because their
 * fields mean other things.
 */
export function dialectOf(m: Record<string, unknown>): Dialect {
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
  if ('batch_version' in m)
    return other(
      'batch_version',
      'a batch manifest (batch_version, vms)',
      'Drop the manifest of each VM by itself; they run side by side.',
    )
  if (!('manifest_version' in m)) {
    if (isObject(m.pipeline) && isObject(m.pipeline.load))
      return other('pipeline', 'a workflow manifest of hyperctl (pipeline.load)', artifact)
    if ('vms' in m && !('disks' in m)) return other('vms', 'a workflow or batch manifest (vms)', artifact)
    if (isObject(m.source) && ('path' in m.source || 'type' in m.source) && !('disks' in m))
      return other('source', 'a manifest of the older form with source.type and source.path', artifact)
    if ('hypervisor' in m && !('disks' in m))
      return other('hypervisor', 'a manifest of the older form with hypervisor and vmware', artifact)
    if (('input' in m || Array.isArray(m.jobs)) && !('disks' in m))
      return other(
        'input' in m ? 'input' : 'jobs',
        'a job file of the hyper2kvm workflow daemon (input, jobs)',
        artifact,
      )
  }
  if ('manifest_version' in m || 'disks' in m) return { kind: 'convert' }
  for (const kind of ['command', 'vm'] as const)
    if (isObject(m[kind]) && !('disks' in m))
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

const artifact =
  'Write it as Artifact Manifest 1.0: "manifest_version": "1.0" and "disks" (see `vmspool schema convert`).'

function other(at: string, what: string, instead: string): Dialect {
  return { path: [at], message: `This is ${what}, which this version does not run. ${instead}` }
}
