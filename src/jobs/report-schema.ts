/** `<name>.report.json`: the pipeline report 1.0 of hyper2kvm (contracts A3) with fields of ours added. Durations are seconds there. */
import { z } from 'zod'

const note = z.looseObject({ stage: z.string(), message: z.string(), timestamp: z.string() })
const whole = z.int().min(0)
const known = z.string().nullable()

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
      stages: z.record(
        z.string(),
        z.looseObject({
          success: z.boolean(),
          duration: z.number().min(0),
          result: z.record(z.string(), z.unknown()).optional(),
          error: z.string().optional(),
        }),
      ),
    }),
    artifacts: z.array(
      z.looseObject({
        type: z.literal('converted_disk'),
        path: z.string(),
        disk_id: z.string(),
        format: z.string(),
        size_bytes: whole,
        size_human: z.string(),
        boot_order_hint: z.number(),
        compressed: z.boolean(),
      }),
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
  })
  .meta({ title: 'Report of a conversion' })
