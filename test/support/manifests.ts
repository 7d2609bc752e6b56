// Manifests as their clients write them.
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { TestDisk } from './disks.ts'

/** An Artifact Manifest 1.0 as HyperSDK's vSphere exporter builds it (contracts A3). */
export function artifactManifest(vmName: string | undefined, disks: TestDisk[], more: object = {}) {
  return {
    manifest_version: '1.0',
    source: {
      provider: 'vsphere',
      vm_id: 'vm-1001',
      ...(vmName === undefined ? {} : { vm_name: vmName }),
      datacenter: 'DC0',
      export_timestamp: '2026-01-21T10:30:00Z',
      export_method: 'hypersdk-govc',
    },
    vm: { cpu: 2, mem_gb: 4, firmware: 'bios', os_hint: 'linux' },
    disks: disks.map((disk, i) => ({
      id: `disk-${i}`,
      source_format: disk.format,
      bytes: disk.size_bytes,
      local_path: disk.path,
      checksum: `sha256:${disk.sha256}`,
      // Go's omitempty drops the hint 0 of the first disk.
      ...(i === 0 ? { disk_type: 'boot' } : { boot_order_hint: i, disk_type: 'data' }),
    })),
    nics: [{ id: 'eth0', mac: '00:50:56:aa:bb:cc', network: 'VM Network' }],
    notes: ['Exported from vSphere by hypersdk v0.1.0', 'Export method: ovf'],
    metadata: { hypersdk_version: '0.1.0', job_id: 'vm-1001', tags: { provider: 'vsphere' } },
    pipeline: {
      inspect: { enabled: false },
      fix: { enabled: false },
      convert: { enabled: true, compress: true },
      validate: { enabled: true },
    },
    output: { format: 'qcow2' },
    options: { verbose: 1, report: { enabled: true } },
    ...more,
  }
}

export type ArtifactManifest = ReturnType<typeof artifactManifest>

export async function writeManifest(dir: string, manifest: object, name = 'artifact-manifest.json'): Promise<string> {
  const path = join(dir, name)
  await writeFile(path, JSON.stringify(manifest, null, 2))
  return path
}

export function commandManifest(name: string, argv: string[], more: object = {}): Record<string, unknown> {
  return { kind: 'command', name, command: { argv }, ...more }
}
