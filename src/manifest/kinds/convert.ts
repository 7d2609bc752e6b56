import { z } from 'zod'
import { show } from '../../text/diagnostic.ts'
import { answerName, common } from './common.ts'
import { configuration } from './configuration.ts'
import { count, filePath, rfc3339 } from './parts.ts'

/*
 * Artifact Manifest 1.0 (reference: contracts.md A3), read as the union of what HyperSDK's Go validator and hyper2kvm's
 * Python loader accept. Fields stand in the order of the Go validator, which is the order of its messages: version,
 * disks, vm, nics. Where acceptance was plainly a fault (`bytes: true`, an id with a line feed at its end) it is refused.
 */

const sourceFormats = ['vmdk', 'qcow2', 'raw', 'vhd', 'vhdx', 'vdi', 'ova', 'ovf'] as const
const outputFormats = ['qcow2', 'raw', 'vdi'] as const

const disk = z.looseObject({
  id: z
    .string()
    .max(128)
    .regex(/^[a-zA-Z0-9_-]+$/, { error: 'must be letters, digits, "_" and "-" only (it becomes a file name)' })
    .meta({ description: 'Unique among the disks.' }),
  source_format: z.enum(sourceFormats),
  bytes: count().optional().meta({ description: 'Size of the source file; it is compared when given.' }),
  local_path: filePath.meta({ description: 'Absolute path on the host of the agent.' }),
  checksum: z
    .string()
    .regex(/^sha256:[a-f0-9]{64}$/, { error: 'must be "sha256:" and 64 lower-case hexadecimal digits' })
    .optional(),
  boot_order_hint: count().optional().meta({ description: 'Lowest boots first, when no disk has disk_type "boot".' }),
  label: z.string().optional(),
  disk_type: z.enum(['boot', 'data', 'unknown']).optional(),
})

const mac = /^(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}$/

const flag = (description: string) => z.boolean().optional().meta({ description })
const stage = { enabled: z.boolean().optional() }

const pipeline = z.looseObject({
  inspect: z.looseObject({ ...stage, collect_guest_info: z.boolean().optional() }).optional(),
  fix: z
    .looseObject({
      ...stage,
      backup: flag('Default true.'),
      print_fstab: flag('Default false.'),
      update_grub: flag('Default true.'),
      regen_initramfs: flag('Default true.'),
      fstab_mode: z.enum(['stabilize-all', 'bypath-only', 'noop']).optional(),
      remove_vmware_tools: flag('Default false.'),
      required: flag(
        'Fail when the guest cannot be fixed here; default: as the agent is configured (fix.unavailable).',
      ),
    })
    .optional(),
  convert: z
    .looseObject({ ...stage, compress: z.boolean().optional(), compress_level: z.int().min(0).max(9).optional() })
    .optional(),
  validate: z.looseObject({ ...stage, check_image_integrity: flag('Default true.') }).optional(),
})

export const convertManifest = z
  .looseObject({
    kind: z.literal('convert').default('convert'),
    manifest_version: z.literal('1.0', {
      error: (issue) =>
        `unsupported manifest version ${issue.input === undefined ? '""' : show(issue.input)}: expected "1.0"`,
    }),
    ...common,
    source: z
      .looseObject({
        provider: z
          .string()
          .optional()
          .meta({ examples: ['vsphere', 'azure', 'aws', 'gcp', 'hyperv', 'local'] }),
        vm_id: z.string().optional(),
        vm_name: answerName.optional().meta({ description: 'What the answer files in output/ are called.' }),
        datacenter: z.string().optional(),
        export_timestamp: z.string().regex(rfc3339, { error: 'should be a time as in RFC 3339' }).optional(),
        export_method: z.string().optional(),
      })
      .optional(),
    disks: z
      .array(disk, {
        error: (issue) => (issue.input === undefined ? 'manifest must have at least one disk' : undefined),
      })
      .min(1, { error: 'manifest must have at least one disk' })
      .max(1024),
    vm: z
      .looseObject({
        cpu: count(65_536).optional().meta({ description: '0 means unknown.' }),
        mem_gb: count(1_048_576).optional().meta({ description: '0 means unknown.' }),
        firmware: z.enum(['bios', 'uefi', 'unknown']).optional(),
        secureboot: z.boolean().optional(),
        os_hint: z.string().optional(),
        os_version: z.string().optional(),
      })
      .optional(),
    nics: z
      .array(
        z.looseObject({
          id: z.string().optional(),
          mac: z
            .string()
            .min(17, { error: 'is too short for a MAC address such as "52:54:00:12:34:56"' })
            .refine((m) => m.length < 17 || mac.test(m), {
              error: 'should be a MAC address such as "52:54:00:12:34:56"',
            })
            .optional()
            .meta({ pattern: mac.source }),
          network: z.string().optional(),
        }),
      )
      .optional(),
    notes: z.array(z.string()).optional(),
    warnings: z
      .array(
        z.looseObject({
          stage: z.string().optional(),
          message: z.string().optional(),
          timestamp: z.string().optional(),
        }),
      )
      .optional(),
    metadata: z
      .looseObject({
        hypersdk_version: z.string().optional(),
        job_id: z.string().optional(),
        created_at: z.string().optional(),
        tags: z.record(z.string(), z.string()).optional(),
      })
      .optional(),
    pipeline: pipeline.optional(),
    configuration: configuration.optional(),
    output: z
      .looseObject({
        directory: z.string().optional(),
        format: z.enum(outputFormats).optional(),
        filename: z.string().optional(),
        checksum: flag('Put the SHA-256 of each output into the result.'),
      })
      .optional(),
    options: z
      .looseObject({
        dry_run: z.boolean().optional(),
        verbose: z.int().min(0).max(3).optional(),
        report: z.looseObject({ enabled: flag('Default true.'), path: z.string().optional() }).optional(),
      })
      .optional(),
    compress: z
      .union([z.boolean(), z.enum(['auto', 'yes', 'no'])], { error: 'must be "auto", true ("yes") or false ("no")' })
      .optional()
      .meta({ description: 'Default: as the agent is configured. Comes before pipeline.convert.compress.' }),
    convert: z
      .looseObject({
        path: z
          .enum(['auto', 'zero-copy', 'inflate', 'qemu-img'])
          .optional()
          .meta({ description: 'How disks are copied; auto takes the fastest that can be used.' }),
        strict: flag('Re-encode compressed clusters, for readers that know only the 4 KiB window of qemu.'),
        compression_type: z.enum(['zlib', 'zstd']).optional(),
      })
      .optional(),
    validate: z
      .looseObject({
        grains: z.enum(['full', 'structure']).optional().meta({
          description:
            'full inflates every compressed grain and checks its Adler-32; structure checks markers and bounds, where a checksum of the file is verified or the configuration allows it.',
        }),
        compare: z
          .enum(['none', 'sample', 'full'])
          .optional()
          .meta({ description: 'Compare the finished image with its source.' }),
      })
      .optional(),
    libvirt_integration: z
      .looseObject({
        enabled: flag('Define the VM. Default: as the agent is configured (libvirt.enabled).'),
        define_domain: flag('Default true.'),
        overwrite_domain: flag(
          'Whether a VM of ours that is there is defined anew. Default: one that a conversion made. A domain that is not ours is never replaced.',
        ),
        create_snapshot: flag('An internal snapshot in each qcow2 disk of the VM, before its first start.'),
        snapshot_name: z
          .string()
          .regex(/^[A-Za-z0-9_][A-Za-z0-9_. -]{0,63}$/, { error: 'must be letters, digits, spaces, "_", "." and "-"' })
          .optional()
          .meta({ description: 'Default "pre-first-boot".' }),
        autostart: flag('Start it with the host. Default: as the agent is configured (libvirt.autostart).'),
        auto_start: flag('Start it now. Default false.'),
        import_to_pool: flag('Not done, with a warning: the VM runs on files in its own folder.'),
        pool_path: z.string().optional(),
        vm_name: answerName.optional().meta({ description: 'What the VM is called; default: as the answer files.' }),
        copy_disks: flag('true: the VM gets disks of its own. Default: hard links to the finished ones.'),
        overwrite_volumes: flag('Not done: no volume is imported.'),
      })
      .optional(),
    // Of newer hyper2kvm revisions: known so that they are not taken for typing errors, answered in `dialect.ts`.
    mode: z.string().optional(),
    base_manifest_id: z.string().optional(),
    hooks: z.unknown().optional(),
    profile: z.unknown().optional(),
    profile_overrides: z.unknown().optional(),
    profiles_directory: z.unknown().optional(),
  })
  .meta({ title: 'vmspool manifest, kind convert: Artifact Manifest 1.0 and the common fields of vmspool' })

export type ConvertManifest = z.output<typeof convertManifest> & Normalised & { compress?: 'auto' | boolean }

/** What normalising adds (see `normalise.ts`). */
export interface Normalised {
  retry?: { max_attempts?: number; delay_ms?: number; factor?: number; [key: string]: unknown }
}
