/** `<name>.report.json`: the pipeline report 1.0 of hyper2kvm (contracts A3) with fields of ours added. Durations are seconds there. */
import { z } from 'zod'
import {
  convert,
  defined,
  domain,
  fix,
  guest,
  inspect,
  known,
  loadManifest,
  sourceDisk,
  stage,
  validate,
  whole,
} from './report-schema-parts.ts'

const note = z.looseObject({ stage: z.string(), message: z.string(), timestamp: z.string() })

export const reportSchema = z
  .looseObject({
    version: z.literal('1.0'),
    hyper2kvm_version: z.string(),
    timestamp: z.string(),
    input_manifest: z.looseObject({
      path: z.string(),
      manifest_version: z.string(),
      source_provider: known,
      source_vm_id: known,
      source_vm_name: known,
    }),
    pipeline: z.looseObject({
      success: z.boolean(),
      duration_seconds: z.number().min(0),
      stages: z.looseObject({
        load_manifest: stage(loadManifest),
        inspect: stage(inspect).optional(),
        fix: stage(fix).optional(),
        convert: stage(convert).optional(),
        validate: stage(validate).optional(),
        libvirt_integration: stage(defined).optional(),
      }),
    }),
    artifacts: z.array(
      z.discriminatedUnion('type', [
        z.looseObject({
          type: z.literal('converted_disk'),
          path: z.string(),
          disk_id: z.string(),
          format: z.string(),
          size_bytes: whole,
          size_human: z.string(),
          boot_order_hint: z.number(),
          compressed: z.boolean(),
          checksum: z
            .string()
            .regex(/^sha256:[a-f0-9]{64}$/)
            .optional()
            .meta({ description: 'Of the file, when output.checksum asks for it.' }),
          note: z.string().optional(),
        }),
        z.looseObject({
          type: z.literal('domain_xml'),
          path: z.string(),
          format: z.literal('libvirt'),
          size_bytes: whole,
          size_human: z.string(),
        }),
      ]),
    ),
    warnings: z.array(note.partial()),
    errors: z.array(note),
    summary: z.looseObject({
      total_stages: whole,
      successful_stages: whole,
      failed_stages: whole,
      total_warnings: whole,
      total_errors: whole,
      total_artifacts: whole,
      input_disks: whole,
      output_disks: whole,
    }),
    job: z.looseObject({ id: z.string(), epoch: whole }).optional(),
    dry_run: z.boolean().optional(),
    estimate: z
      .looseObject({ bytes: whole, time_ms: whole, free_bytes: whole })
      .optional()
      .meta({ description: 'Of a dry run.' }),
    disks: z.array(sourceDisk).optional(),
    phases: z.array(z.looseObject({ name: z.string(), duration_ms: whole })).optional(),
    guest: guest.optional(),
    fix: fix.optional(),
    domain: domain.optional(),
    define: defined.optional(),
  })
  .meta({ title: 'Report of a conversion' })
