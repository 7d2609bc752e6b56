import { z } from 'zod'
import { answerName, common } from './common.ts'
import type { Normalised } from './convert.ts'
import { filePath, freeMap } from './parts.ts'

/*
 * Several manifests under one parent (reference: hyper2kvm's batch manifest, contracts.md A3). The canonical form is that batch manifest
 * with the common fields; a VM's manifest may also stand in it, which is what the other dialects are translated to.
 */

/** More would make a job file and a result that no one reads in one piece. */
const mostVms = 10_000

const vm = z.looseObject({
  id: z
    .string()
    .min(1)
    .max(128)
    .regex(/^[a-zA-Z0-9_-]+$/, { error: 'must be letters, digits, "_" and "-" only' })
    .optional()
    .meta({ description: 'Unique in the batch; default vm_<index>.' }),
  manifest: z
    .union([filePath, freeMap], { error: "must be the path of a VM's manifest, or the manifest itself" })
    .meta({ description: "The VM's manifest: its path (a relative one starts from the batch's folder), or itself." }),
  priority: z.int().default(0).meta({ description: 'Order of starting within the batch: lower first, then by index.' }),
  overrides: freeMap.optional().meta({ description: "Put over the VM's manifest, field by field." }),
  enabled: z.boolean().default(true).meta({ description: 'false: the VM is skipped.' }),
  done_by: z
    .string()
    .regex(/^[0-9A-HJKMNP-TV-Z]{26}$/, { error: 'must be the id of a job' })
    .optional()
    .meta({
      description: 'The job that converted this VM already; written by `vmspool retry`. It is not converted again.',
    }),
  retry_of: z
    .string()
    .regex(/^[0-9A-HJKMNP-TV-Z]{26}$/, { error: 'must be the id of a job' })
    .optional()
    .meta({ description: 'The job that failed to convert this VM; written by `vmspool retry`.' }),
})

export const batchManifest = z
  .looseObject({
    kind: z.literal('batch').default('batch'),
    batch_version: z
      .literal('1.0')
      .optional()
      .meta({ description: 'Says that this is a batch when kind is left out.' }),
    ...common,
    name: answerName.optional().meta({
      description:
        'The answer files are called <name>.batch.*. Default: batch_metadata.batch_id, else as the file is called.',
    }),
    batch_metadata: z
      .looseObject({
        batch_id: answerName.optional(),
        description: z.string().optional(),
        parallel_limit: z
          .int()
          .min(1)
          .max(mostVms)
          .default(4)
          .meta({ description: 'Most VMs of this batch that are jobs at once, waiting ones included.' }),
        continue_on_error: z
          .boolean()
          .default(true)
          .meta({ description: 'false: after the first VM that fails no further one is started.' }),
      })
      .optional(),
    shared_config: freeMap
      .optional()
      .meta({ description: "Put under every VM's manifest: what it does not say itself." }),
    vms: z
      .array(vm, { error: (issue) => (issue.input === undefined ? 'a batch must have at least one VM' : undefined) })
      .min(1, { error: 'a batch must have at least one VM' })
      .max(mostVms),
  })
  .meta({ title: 'vmspool manifest, kind batch: several VMs under one parent' })

type Batch = z.output<typeof batchManifest>

/** One VM of a checked batch. */
export type BatchVm = Batch['vms'][number] & { id: string }

export type BatchManifest = Batch &
  Normalised & { name: string; batch_metadata: { parallel_limit: number; continue_on_error: boolean }; vms: BatchVm[] }
