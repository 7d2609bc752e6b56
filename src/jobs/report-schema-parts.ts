/** Parts of the report's schema: what each stage says (contracts A3), and what vmspool adds. */
import { z } from 'zod'

export const whole = z.int().min(0)
export const known = z.string().nullable()
const path = z.enum(['zero-copy', 'inflate', 'qemu-img'])
const grains = z.enum(['full', 'structure'])
const says = (description: string) => ({ description })

/** A stage that succeeded has a result, one that failed an error. */
export const stage = <T extends z.ZodType>(result: T) =>
  z.looseObject({
    success: z.boolean(),
    duration: z.number().min(0).meta(says('Seconds.')),
    result: result.optional(),
    error: z.string().optional(),
  })

export const loadManifest = z.looseObject({
  manifest_version: z.string(),
  manifest_path: z.string(),
  source_provider: known,
  source_vm_id: known,
  source_vm_name: known,
  disks_count: whole,
  firmware: z.string(),
  os_hint: z.string(),
  checksums_verified: z.boolean().meta(says('Every disk had a checksum, and it was right.')),
})

export const guest = z
  .looseObject({
    type: z.string(),
    distro: z.string(),
    product_name: z.string(),
    major_version: z.int(),
    minor_version: z.int(),
  })
  .meta(says('What virt-inspector found.'))

export const inspect = z.looseObject({
  disks: z.array(
    z.looseObject({
      id: z.string(),
      source_format: z.string(),
      expected_bytes: whole.meta(says('As the manifest states it; 0: not stated.')),
      actual_bytes: whole,
      size_match: z.boolean(),
      size_human: z.string(),
      path: z.string(),
      virtual_size_bytes: whole.optional(),
      guest: guest.optional(),
      guest_inspection_error: z.string().optional(),
    }),
  ),
})

/** Everything but the disk is absent when the fix was skipped. */
export const fix = z.looseObject({
  skipped: z.literal(true).optional(),
  boot_disk_id: known,
  data_disks_skipped: whole.optional(),
  fstab_mode: z.string().optional(),
  grub_updated: z.boolean().optional(),
  initramfs_regenerated: z.boolean().optional(),
  vmware_tools_removed: z.boolean().optional(),
  tools: z.array(z.string()).optional(),
  block_bus: z.string().optional(),
  net_bus: z.string().optional(),
  configured: z.array(z.string()).optional(),
  not_offered: z.array(z.string()).optional(),
  warnings: z.array(z.string()).optional(),
  adopted: z.boolean().optional(),
})

export const convert = z.looseObject({
  disks_converted: whole,
  output_format: known,
  output_directory: z.string(),
  compressed: z.boolean(),
  converted_disks: z.array(
    z.looseObject({
      disk_id: z.string(),
      input_format: known,
      output_format: z.string(),
      output_path: z.string().meta(says('Relative to output_directory.')),
      output_size_bytes: whole,
      output_size_human: z.string(),
      boot_order_hint: z.number(),
      path: path.optional().meta(says('How it was copied.')),
      path_reason: z.string().optional(),
      copy_ms: whole.optional(),
      adopted: z.boolean().optional().meta(says('An earlier attempt had made it.')),
    }),
  ),
  domain_xml: z.string().optional(),
})

export const defined = z
  .looseObject({
    domain_name: z.string().optional(),
    name: z.string(),
    uuid: z.guid(),
    uri: z.string(),
    defined: z.boolean().meta(says('False: an earlier attempt of the job had defined it, and it ran already.')),
    started: z.boolean().meta(says('By this attempt.')),
    running: z.boolean(),
    autostart: z.boolean(),
    type: z.enum(['kvm', 'qemu']),
    disks: z.array(
      z.looseObject({
        disk_id: z.string(),
        path: z.string(),
        how: z
          .enum(['link', 'clone', 'copy', 'there'])
          .meta(says('How the VM came to it; there: by an earlier attempt.')),
      }),
    ),
    kept: z.array(z.string()).meta(says('Disks of an earlier definition, which were left where they are.')),
    snapshot: z.string().optional(),
    phases: z
      .array(z.looseObject({ name: z.string(), duration_ms: whole }))
      .optional()
      .meta(says('Parts of the step.')),
  })
  .meta(says('The VM that was defined.'))

export const validate = z.looseObject({
  disks_validated: whole,
  all_passed: z.boolean(),
  validation_results: z.array(
    z.looseObject({
      disk_id: z.string(),
      path: z.string(),
      passed: z.boolean(),
      check: z.string(),
      compare: z.enum(['none', 'sample', 'full']).optional(),
      grains: grains.optional(),
    }),
  ),
})

export const sourceDisk = z.looseObject({
  id: z.string(),
  from: z.string().meta(says("The manifest's disk it came from; an OVA may hold several.")),
  source: z.string(),
  source_format: z.string(),
  subformat: z.string().optional(),
  virtual_size_bytes: whole,
  actual_bytes: whole,
  expected_bytes: whole.optional(),
  checksum_verified: z.boolean(),
  path,
  path_reason: z.string(),
  grains: grains.optional(),
  transfer: z.enum(['clone', 'copy']).optional(),
  adopted: z.boolean(),
  boot: z.boolean(),
  boot_order_hint: z.number(),
  estimate_bytes: whole,
  copy_ms: whole.optional(),
})

export const domain = z
  .looseObject({
    path: z.string(),
    size_bytes: whole,
    name: z.string(),
    uuid: z.guid(),
    vcpus: whole,
    memory_bytes: whole,
    firmware: z.enum(['bios', 'uefi']),
    secure_boot: z.boolean(),
    machine: z.enum(['q35', 'pc']),
    devices: z.enum(['virtio', 'sata', 'ide']),
    devices_reason: z.string(),
    disks: z.array(
      z.looseObject({
        disk_id: z.string(),
        path: z.string(),
        target: z.string(),
        bus: z.string(),
        boot_order: z.int().min(1),
      }),
    ),
    nics: z.array(z.looseObject({ mac: known, model: z.string(), network: z.string(), source_network: known })),
    assumed: z.array(z.string()).meta(says('What neither the manifest nor the OVF said.')),
  })
  .meta(says('What <name>.xml says.'))
