import { z } from 'zod'
import { common } from './common.ts'
import type { Normalised } from './convert.ts'
import { freeMap } from './parts.ts'

/* Kinds whose handlers come later; an agent of this version refuses them by name. Their content is still open. */

export const vmManifest = z
  .looseObject({
    kind: z.literal('vm'),
    manifest_version: z.literal('1.0').optional(),
    ...common,
    action: z.enum(['create', 'start', 'stop', 'delete']).optional(),
    vm: freeMap.optional(),
  })
  .meta({ title: 'vmspool manifest, kind vm: create, start, stop, delete a VM' })

export const maintenanceManifest = z
  .looseObject({
    kind: z.literal('maintenance'),
    manifest_version: z.literal('1.0').optional(),
    ...common,
    task: z.enum(['health', 'cleanup', 'update', 'report']).optional(),
    options: freeMap.optional(),
  })
  .meta({ title: 'vmspool manifest, kind maintenance: health check, cleanup, update, report' })

export type VmManifest = z.output<typeof vmManifest> & Normalised
export type MaintenanceManifest = z.output<typeof maintenanceManifest> & Normalised
