import { type BatchManifest, type BatchVm, type Diagnostic, manifestOfVm } from '../manifest/index.ts'
import { readManifestFile } from './manifest-files.ts'

export interface VmChecked {
  /** the VM's manifest */
  file: string
  diagnostics: readonly Diagnostic[]
}

/**
 * What an agent would find in the manifests that a batch names, as far as they can be read from here: with what the batch shares and overrides.
 * Only those with findings are returned.
 */
export async function checkVms(batch: BatchManifest): Promise<VmChecked[]> {
  const out: VmChecked[] = []
  for (const vm of batch.vms as BatchVm[]) {
    if (typeof vm.manifest !== 'string' || !vm.enabled) continue
    const diagnostics = await checkVm(batch, vm, vm.manifest)
    if (diagnostics.length > 0) out.push({ file: vm.manifest, diagnostics })
  }
  return out
}

async function checkVm(batch: BatchManifest, vm: BatchVm, path: string): Promise<readonly Diagnostic[]> {
  let bytes: Uint8Array
  try {
    bytes = await readManifestFile(path)
  } catch (error) {
    const message = `The manifest of "${vm.id}" cannot be read from here: ${(error as Error).message}`
    return [{ severity: 'warning', path: '', message }]
  }
  const outcome = manifestOfVm(batch, vm, { bytes, path })
  if (outcome.state === 'complete' && outcome.manifest.kind === 'batch') {
    const message = `The manifest of "${vm.id}" is a batch itself; batches do not nest.`
    return [{ severity: 'error', path: '', message }]
  }
  return outcome.diagnostics
}
