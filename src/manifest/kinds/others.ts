import { z } from 'zod'
import { common } from './common.ts'
import type { Normalised } from './convert.ts'
import { freeMap } from './parts.ts'

/* A kind whose handler comes later; an agent of this version refuses it by name. Its content is still open. */

export const maintenanceManifest = z
  .looseObject({
    kind: z.literal('maintenance'),
    manifest_version: z.literal('1.0').optional(),
    ...common,
    task: z.enum(['health', 'cleanup', 'update', 'report']).optional(),
    options: freeMap.optional(),
  })
  .meta({ title: 'vmspool manifest, kind maintenance: health check, cleanup, update, report' })

export type MaintenanceManifest = z.output<typeof maintenanceManifest> & Normalised
