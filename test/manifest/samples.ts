import { type ParseOptions, type ParseOutcome, parseManifest } from '../../src/manifest/index.ts'

export const minimal = {
  manifest_version: '1.0',
  disks: [{ id: 'disk-0', source_format: 'vmdk', bytes: 10737418240, local_path: '/work/job123/disk-0.vmdk' }],
}

/** As HyperSDK's builder writes it for vSphere: ids from the file index, no disk_type, hint 0 dropped (contracts A3). */
export const fromHyperexport = {
  manifest_version: '1.0',
  source: {
    provider: 'vsphere',
    vm_id: 'vm-1042',
    vm_name: 'web-01',
    datacenter: 'DC0',
    export_timestamp: '2026-01-20T10:11:12Z',
    export_method: 'hypersdk-govc',
  },
  vm: { cpu: 0, mem_gb: 0, firmware: 'bios', os_hint: 'linux' },
  disks: [
    {
      id: 'disk-1',
      source_format: 'vmdk',
      bytes: 1,
      local_path: '/export/web-01-disk-0.vmdk',
      checksum: `sha256:${'a'.repeat(64)}`,
    },
    { id: 'disk-2', source_format: 'vmdk', bytes: 1, local_path: '/export/web-01-disk-1.vmdk', boot_order_hint: 1 },
  ],
  nics: [{ id: 'nic-0', mac: '00:50:56:ab:cd:ef', network: 'VM Network' }],
  notes: ['Exported from vSphere by hypersdk v0.1.0', 'Export method: ovf'],
  metadata: {
    hypersdk_version: '0.1.0',
    job_id: 'vm-1042',
    created_at: '2026-01-20T10:11:12Z',
    tags: { provider: 'vsphere' },
  },
  pipeline: {
    inspect: { enabled: true, collect_guest_info: true },
    fix: { enabled: true, backup: true, update_grub: true, regen_initramfs: true, fstab_mode: 'stabilize-all' },
    convert: { enabled: true, compress: true },
    validate: { enabled: true, check_image_integrity: true },
  },
  output: { directory: '/export', format: 'qcow2' },
  options: { verbose: 1, report: { enabled: true, path: 'report.json' } },
}

export type Complete = ParseOutcome & { state: 'complete' }

export function parse(data: unknown, o: Partial<ParseOptions> = {}): ParseOutcome {
  const text = typeof data === 'string' ? data : JSON.stringify(data)
  return parseManifest(Buffer.from(text), { fileName: 'artifact-manifest.json', ...o })
}

export function accepted(data: unknown, o: Partial<ParseOptions> = {}): Complete {
  const outcome = parse(data, o)
  if (outcome.state !== 'complete')
    throw new Error(`${outcome.state}: ${outcome.diagnostics.map((d) => d.message).join('\n')}`)
  return outcome
}

/** path → message of the errors. */
export function errorsOf(outcome: ParseOutcome): Record<string, string> {
  return Object.fromEntries(outcome.diagnostics.filter((d) => d.severity === 'error').map((d) => [d.path, d.message]))
}

export const warningsOf = (outcome: ParseOutcome) => outcome.diagnostics.filter((d) => d.severity === 'warning')

export function withDisk(change: Record<string, unknown>): Record<string, unknown> {
  return { ...minimal, disks: [{ ...minimal.disks[0], ...change }] }
}
